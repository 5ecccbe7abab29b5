//! Trees: vector operations against the machine's memory bandwidth.

use std::fmt::Write as _;

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Tree;

use crate::{Copy, Held, Peers, medians};

/// Vector operations on one large leaf and on many.
pub fn run(out: &mut String, peers: &Peers) {
    let device = Device::default();
    const ELEMENTS: usize = 10_000_000;
    let leaf = |seed: f32| {
        let values: Vec<f32> = (0..ELEMENTS).map(|i| seed + (i % 1000) as f32 * 1e-3).collect();
        Tree::empty().push("x", Tensor::<1>::from_data(TensorData::new(values, [ELEMENTS]), &device)).unwrap()
    };
    let (x, y) = (leaf(0.5), Held::new(leaf(0.25)));
    let buffers = Copy::new(ELEMENTS);
    let (copy, parallel) = (|| buffers.one_thread(), || buffers.two_threads());
    let axpy = || y.update(|y| y.axpy(1e-6, &x).unwrap());
    let scale = || y.update(|y| y.scale(0.999_999));
    let other = leaf(0.1);
    let dot = || drop(x.dot(&other).unwrap());
    let norm = || drop(x.norm());
    let [copy, parallel, axpy, scale, dot, norm] = medians([&copy, &parallel, &axpy, &scale, &dot, &norm], &[1; 6]);
    let best = copy.min(parallel);
    let bandwidth = |passes: f64, ms: f64| passes * ELEMENTS as f64 * 4.0 / ms / 1e6;
    let reference = bandwidth(2.0, best);
    writeln!(out, "### Trees, 10 M f32 elements in one leaf\n").unwrap();
    writeln!(out, "| operation | passes over memory | time | bandwidth | of a memory copy |\n|---|---|---|---|---|")
        .unwrap();
    for (name, passes, ms) in [
        ("copy, one thread", 2.0, copy),
        ("copy, two threads", 2.0, parallel),
        ("axpy in place", 3.0, axpy),
        ("scale in place", 2.0, scale),
        ("dot", 2.0, dot),
        ("norm", 1.0, norm),
    ] {
        let speed = bandwidth(passes, ms);
        writeln!(out, "| {name} | {passes} | {ms:.2} ms | {speed:.1} GB/s | {:.0}% |", 100.0 * speed / reference)
            .unwrap();
    }
    writeln!(out).unwrap();

    const LEAVES: usize = 200;
    const SIZE: usize = 125_000;
    let many = || {
        (0..LEAVES).fold(Tree::empty(), |tree, index| {
            let leaf = Tensor::<1>::ones([SIZE], &device) * 0.5;
            tree.push(format!("leaf{index}"), leaf).unwrap()
        })
    };
    let tree = Held::new(many());
    let buffers = Copy::new(LEAVES * SIZE);
    let (copy, parallel) = (|| buffers.one_thread(), || buffers.two_threads());
    let norm = || drop(tree.read(Tree::norm));
    let scale = || tree.update(|tree| tree.scale(0.999_999));
    let [copy, parallel, norm, scale] = medians([&copy, &parallel, &norm, &scale], &[1; 4]);
    let copy = copy.min(parallel);
    writeln!(out, "### Trees, 25 M f32 elements in 200 leaves\n").unwrap();
    writeln!(out, "| operation | time | copies of the tree |\n|---|---|---|").unwrap();
    for (name, ms) in [("copy", copy), ("norm", norm), ("scale", scale)] {
        writeln!(out, "| {name} | {ms:.2} ms | {:.2} |", ms / copy).unwrap();
    }
    for ((operation, peer, _), copies) in peers.iter().filter(|((_, _, what), _)| what == "tree") {
        writeln!(out, "| {peer}: {operation} | – | {copies:.2} |").unwrap();
    }
    writeln!(out).unwrap();
}
