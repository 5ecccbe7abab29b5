//! Splitting a graph where it starts to depend on what changes between runs.

use burn::backend::ir::TensorIr;

use super::graph::{Entry, Graph, Source, index};
use super::simplify::drop_dead;

/// Splits `graph` so that everything independent of the varying sources runs once.
///
/// The first graph computes `stable` and, behind them, the values that the second graph reads; those come back as
/// [`Source::Kept`] entries. The second graph computes `varying`. Both keep the ids of the original.
pub(crate) fn split(
    graph: &Graph,
    varies: impl Fn(&Source) -> bool,
    stable: Vec<TensorIr>,
    varying: Vec<TensorIr>,
) -> (Graph, Graph) {
    let mut moving = vec![false; graph.tensors];
    let (late, early): (Vec<Entry>, Vec<Entry>) =
        graph.entries.iter().cloned().partition(|entry| varies(&entry.source));
    late.iter().for_each(|entry| moving[index(&entry.tensor)] = true);
    let mut first =
        Graph { tensors: graph.tensors, entries: early, outputs: stable, int: graph.int, ..Graph::default() };
    let mut second =
        Graph { tensors: graph.tensors, entries: late, outputs: varying, int: graph.int, ..Graph::default() };
    for operation in &graph.operations {
        if operation.inputs().any(|input| moving[index(input)]) {
            operation.outputs().for_each(|out| moving[index(out)] = true);
            second.operations.push(operation.clone());
        } else {
            first.operations.push(operation.clone());
        }
    }
    drop_dead(&mut second);
    let mut kept = vec![false; graph.tensors];
    let reads = second.operations.iter().flat_map(|operation| operation.inputs()).chain(&second.outputs);
    let reads: Vec<TensorIr> = reads.filter(|read| !moving[index(read)]).cloned().collect();
    let mut count = 0;
    for read in reads {
        if !std::mem::replace(&mut kept[index(&read)], true) {
            second.entries.push(Entry { tensor: read.clone(), source: Source::Kept(count) });
            first.outputs.push(read);
            count += 1;
        }
    }
    drop_dead(&mut first);
    (first, second)
}
