//! Running a graph: a schedule with lifetimes, made once, and its execution on a device.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::ir::{IrVisitorMut, OperationIr, TensorIr, TensorStatus};
use burn::backend::{DispatchDevice, DispatchTensor};
use burn::tensor::Device;

use super::error::ProgramError;
use super::graph::{Entry, Graph, index};
use super::operations::{Values, execute};
use super::record::panic_message;

/// A graph with the last use of every tensor marked.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub entries: Vec<Entry>,
    pub outputs: Vec<TensorIr>,
    steps: Vec<Step>,
    tensors: usize,
}

#[derive(Debug)]
struct Step {
    /// Tensors are [`TensorStatus::ReadWrite`] where this is their last use.
    operation: OperationIr,
    /// Tensors to drop afterwards that the operation does not consume itself.
    drop: Vec<usize>,
}

impl Schedule {
    pub fn new(graph: Graph) -> Self {
        let mut needed = vec![false; graph.tensors];
        graph.outputs.iter().for_each(|out| needed[index(out)] = true);
        let mut steps: Vec<Step> = Vec::with_capacity(graph.operations.len());
        for mut operation in graph.operations.into_iter().rev() {
            let mut drop = Vec::new();
            // Results nobody reads.
            drop.extend(operation.outputs().map(index).filter(|out| !needed[*out]));
            let inputs: Vec<usize> = operation.inputs().map(index).collect();
            let mut last = Vec::new();
            for (position, input) in inputs.iter().enumerate() {
                if needed[*input] || inputs[..position].contains(input) {
                    continue;
                }
                // An operation reading one tensor twice shares it and drops it after.
                match inputs.iter().filter(|other| *other == input).count() {
                    1 => last.push(*input),
                    _ => drop.push(*input),
                }
            }
            inputs.iter().for_each(|input| needed[*input] = true);
            operation.visit_mut(&mut MarkLast(&last));
            steps.push(Step { operation, drop });
        }
        steps.reverse();
        Schedule { entries: graph.entries, outputs: graph.outputs, steps, tensors: graph.tensors }
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Runs the schedule with the given values of its entries, in order, and returns the outputs.
    ///
    /// Burn's kernels panic on what they cannot do; that comes back as an error.
    pub fn run(
        &self,
        entries: Vec<DispatchTensor>,
        device: &DispatchDevice,
    ) -> Result<Vec<DispatchTensor>, ProgramError> {
        catch_unwind(AssertUnwindSafe(|| self.run_unguarded(entries, device)))
            .map_err(|panic| ProgramError::Execution { message: panic_message(panic.as_ref()) })
    }

    fn run_unguarded(&self, entries: Vec<DispatchTensor>, device: &DispatchDevice) -> Vec<DispatchTensor> {
        let settings = Device::new(device.clone()).settings();
        let mut values = Values { slots: vec![None; self.tensors], device, bool: settings.bool_dtype };
        for (entry, value) in self.entries.iter().zip(entries) {
            values.slots[index(&entry.tensor)] = Some(value);
        }
        for step in &self.steps {
            let done = execute(&step.operation, &mut values);
            assert!(done, "recording accepts only operations that can be executed: {:?}", step.operation);
            step.drop.iter().for_each(|slot| values.slots[*slot] = None);
        }
        self.outputs.iter().map(|out| values.slots[index(out)].clone().expect("outputs outlive the schedule")).collect()
    }
}

struct MarkLast<'a>(&'a [usize]);

impl IrVisitorMut for MarkLast<'_> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        tensor.status = match self.0.contains(&index(tensor)) {
            true => TensorStatus::ReadWrite,
            false => TensorStatus::ReadOnly,
        };
    }
}
