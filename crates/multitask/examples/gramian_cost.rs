//! Time and memory of the tasks' Gramian and of its combination `Jᵀw`, by way and number of tasks.
//!
//! `cargo run --release -p multitask --example gramian_cost`. Memory is the highest resident size of a step above that before it
//! (Linux only).

use std::time::Instant;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor};
use core_tensor::Tree;
use multitask::{GramianBy, HeadGradient, MultiTaskModel, Part, TaskProgram};

#[derive(Module, Debug)]
struct Net {
    body: Vec<Linear>,
    heads: Vec<Linear>,
}

type Batch = (Tensor<2>, Tensor<2>);

impl MultiTaskModel<Batch> for Net {
    fn tasks(&self) -> Vec<String> {
        (0..self.heads.len()).map(|task| format!("t{task}")).collect()
    }

    fn losses(&self, (x, y): &Batch) -> Tensor<1> {
        let z = self.body.iter().fold(x.clone(), |x, layer| layer.forward(x).tanh());
        let each = self.heads.iter().enumerate();
        let each = each.map(|(task, head)| (head.forward(z.clone()) - y.clone().slice_dim(1, task)).square().mean());
        Tensor::cat(each.collect(), 0)
    }

    fn part(&self, path: &str) -> Part {
        let head = path.strip_prefix("heads.").and_then(|rest| rest.split('.').next()?.parse().ok());
        head.map_or(Part::Shared, Part::Task)
    }
}

const WAYS: [&str; 5] = ["rows", "tangents", "blocks of 4", "one tape each", "weighted sum"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [way, tasks] = arguments.as_slice() {
        return cell(way, tasks.parse()?);
    }
    println!("body 784-1024-1024, batch 64; milliseconds and megabytes of a step: JJᵀ, then Jᵀw");
    println!("{:>5}{}", "tasks", WAYS.map(|way| format!("{way:>16}")).concat());
    for tasks in [2, 4, 8, 16, 32, 64] {
        print!("{tasks:>5}");
        for way in WAYS {
            // A process each, so that memory which one has given back is not there for the next.
            let child =
                std::process::Command::new(std::env::current_exe()?).args([way, &tasks.to_string()]).output()?;
            print!("{:>16}", String::from_utf8_lossy(&child.stdout).trim());
        }
        println!();
    }
    Ok(())
}

fn cell(way: &str, tasks: usize) -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let linear = |from, to| LinearConfig::new(from, to).init(&device);
    let net =
        Net { body: vec![linear(784, 1024), linear(1024, 1024)], heads: (0..tasks).map(|_| linear(1024, 1)).collect() };
    let random = |width| Tensor::<2>::random([64, width], Distribution::Normal(0.0, 1.0), &device);
    let batch = (random(784), random(tasks));
    let program = TaskProgram::record(&net, &batch)?;
    let point = Tree::from_module(&net);
    let weights = vec![1.0 / tasks as f64; tasks];
    let by_gramian = |by| {
        let pass = program.forward(&point, &batch).expect("forward");
        let gramian = pass.gramian(by).expect("gramian");
        pass.combine(gramian, &weights, HeadGradient::Own).expect("combine");
    };
    match way {
        "rows" => measure(|| by_gramian(GramianBy::Rows)),
        "tangents" => measure(|| by_gramian(GramianBy::Tangents)),
        "blocks of 4" => measure(|| by_gramian(GramianBy::Blocks(4))),
        "one tape each" => {
            let autodiff = device.clone().autodiff();
            let tape = net.clone().to_device(&autodiff).train();
            let on_tape = (batch.0.clone().to_device(&autodiff), batch.1.clone().to_device(&autodiff));
            measure(|| {
                let rows = (0..tasks)
                    .map(|task| Tree::from_grads(tape.losses(&on_tape).slice_dim(0, task).sum().backward(), &tape))
                    .map(|row| row.filter(|name| name.path.starts_with("body")));
                let rows: Vec<Tree> = rows.collect();
                for (i, row) in rows.iter().enumerate() {
                    rows[i..].iter().for_each(|x| assert!(row.dot(x).expect("one structure").value().is_finite()));
                }
                let start = rows[0].clone().scale(weights[0]);
                let add = |sum: Tree, (row, weight): (&Tree, &f64)| sum.axpy(*weight, row).expect("one structure");
                rows[1..].iter().zip(&weights[1..]).fold(start, add);
            });
        }
        _ => measure(|| {
            program.forward(&point, &batch).expect("forward").weighted(&weights).expect("weighted");
        }),
    }
    Ok(())
}

/// The median of five steps, and how far the first raised the highest resident size.
fn measure(step: impl Fn()) {
    let before = memory();
    step();
    let first = memory() - before;
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            step();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{:.0} {:.0}", times[2], first);
}

/// The highest resident size so far, in megabytes; 0 on other systems than Linux.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}
