//! Any number of heads of one type.

use std::fmt;

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor};

use super::Forward;
use super::builder::{HeadOutputs, Named, TaskHeads, TaskLoss};

/// Heads of one type with names and losses, behind the heads before them. Made by [`MultiTask::heads`](super::MultiTask::heads).
#[derive(Clone)]
pub struct ManyHeads<R, M, L> {
    rest: R,
    names: Vec<String>,
    heads: Vec<M>,
    losses: Vec<L>,
}

impl<R, M, L> ManyHeads<R, M, L> {
    pub(super) fn behind(rest: R, heads: impl IntoIterator<Item = (String, M, L)>) -> Self {
        let mut many = Self { rest, names: Vec::new(), heads: Vec::new(), losses: Vec::new() };
        for (name, head, loss) in heads {
            many.names.push(name);
            many.heads.push(head);
            many.losses.push(loss);
        }
        many
    }
}

impl<Z, Y, R, M, L> TaskHeads<Z, Y> for ManyHeads<R, M, L>
where
    R: TaskHeads<Z, Y>,
    M: Forward<Z>,
    L: TaskLoss<M::Output, Y>,
{
    fn losses_of(&self, features: &mut dyn FnMut(usize) -> Z, labels: &Y, losses: &mut Vec<Tensor<1>>) {
        self.rest.losses_of(features, labels, losses);
        for (head, loss) in self.heads.iter().zip(&self.losses) {
            let own = features(losses.len());
            losses.push(loss.loss(head.forward(own), labels).reshape([-1]));
        }
    }

    fn labelled(&self, labels: &Y, labelled: &mut Vec<bool>) {
        self.rest.labelled(labels, labelled);
        labelled.extend(self.losses.iter().map(|loss| loss.labelled(labels)));
    }
}

impl<Z, R, M, L> HeadOutputs<Z> for ManyHeads<R, M, L>
where
    Z: Clone,
    R: HeadOutputs<Z>,
    M: Forward<Z>,
    L: Clone + Send,
{
    type Outputs = (R::Outputs, Vec<M::Output>);

    fn outputs(&self, features: &Z) -> Self::Outputs {
        let own = self.heads.iter().map(|head| head.forward(features.clone())).collect();
        (self.rest.outputs(features), own)
    }
}

impl<R: Named, M, L> Named for ManyHeads<R, M, L> {
    fn names(&self, names: &mut Vec<String>) {
        self.rest.names(names);
        names.extend(self.names.iter().cloned());
    }
}

impl<R: fmt::Debug, M: fmt::Debug, L> fmt::Debug for ManyHeads<R, M, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManyHeads")
            .field("rest", &self.rest)
            .field("names", &self.names)
            .field("heads", &self.heads)
            .finish_non_exhaustive()
    }
}

/// Written by hand so that parameters are named by their task.
impl<R: Module, M: Module, L: Clone + Send> Module for ManyHeads<R, M, L> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        let devices = self.rest.collect_devices(devices);
        self.heads.iter().fold(devices, |devices, head| head.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|rest| rest.fork(device), |head| head.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|rest| rest.to_device(device), |head| head.to_device(device))
    }

    fn train(self) -> Self {
        self.each(Module::train, Module::train)
    }

    fn valid(&self) -> Self {
        let heads = self.heads.iter().map(Module::valid).collect();
        Self { rest: self.rest.valid(), names: self.names.clone(), heads, losses: self.losses.clone() }
    }

    fn materialize(self) -> Self {
        self.each(Module::materialize, Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.rest.visit(visitor);
        for (name, head) in self.names.iter().zip(&self.heads) {
            visitor.enter_module(name, "Head");
            head.visit(visitor);
            visitor.exit_module(name, "Head");
        }
    }

    fn map<V: ModuleMapper>(self, mapper: &mut V) -> Self {
        let rest = self.rest.map(mapper);
        let heads = self.names.iter().zip(self.heads).map(|(name, head)| {
            mapper.enter_module(name, "Head");
            let head = head.map(mapper);
            mapper.exit_module(name, "Head");
            head
        });
        let heads = heads.collect();
        Self { rest, heads, names: self.names, losses: self.losses }
    }
}

impl<R, M, L> ManyHeads<R, M, L> {
    fn each(self, rest: impl FnOnce(R) -> R, head: impl FnMut(M) -> M) -> Self {
        let heads = self.heads.into_iter().map(head).collect();
        Self { rest: rest(self.rest), heads, ..self }
    }
}

impl<R: ModuleDisplay, M: ModuleDisplay, L> ModuleDisplayDefault for ManyHeads<R, M, L> {
    fn content(&self, content: Content) -> Option<Content> {
        let content = content.add("rest", &self.rest);
        let heads = self.names.iter().zip(&self.heads);
        heads.fold(content, |content, (name, head)| content.add(name, head)).optional()
    }
}

impl<R: ModuleDisplay, M: ModuleDisplay, L> ModuleDisplay for ManyHeads<R, M, L> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Masked, MultiTask, MultiTaskModel, TaskMask};
    use crate::task_gradients::TaskProgram;
    use burn::nn::{LinearConfig, Tanh};
    use burn::tensor::Distribution;
    use core_tensor::Tree;
    use core_tensor::testing::{assert_close, assert_same_bits, host_devices};

    #[test]
    fn they_are_the_same_model_as_heads_added_one_by_one() {
        type Labels = (Tensor<2>, Vec<TaskMask>);
        for device in host_devices() {
            let linear = |from, to| LinearConfig::new(from, to).init(&device);
            let loss = |i: usize| {
                Masked::new(
                    move |out: Tensor<2>, y: &Labels| (out - y.0.clone().slice_dim(1, i)).square().squeeze_dim::<1>(1),
                    move |y: &Labels| y.1[i].clone(),
                )
            };
            let body = (linear(3, 4), Tanh::new());
            let heads: Vec<_> = (0..3).map(|_| linear(4, 1)).collect();
            let one_by_one = MultiTask::new(body.clone())
                .head("t0", heads[0].clone(), loss(0))
                .head("t1", heads[1].clone(), loss(1))
                .head("t2", heads[2].clone(), loss(2));
            // One in front, two of a list.
            let rest = (1..3).map(|i| (format!("t{i}"), heads[i].clone(), loss(i)));
            let listed = MultiTask::new(body).head("t0", heads[0].clone(), loss(0)).heads(rest);
            let random = |width| Tensor::<2>::random([5, width], Distribution::Normal(0.0, 1.0), &device);
            let masks = [[true; 5], [false; 5], [true, false, true, false, true]];
            let batch = (random(3), (random(3), masks.map(|mask| TaskMask::new(&mask, &device)).to_vec()));
            assert_eq!(listed.tasks(), one_by_one.tasks());
            assert_eq!(listed.labelled(&batch), [true, false, true]);
            let point = Tree::from_module(&one_by_one);
            assert_same_bits(&Tree::from_module(&listed), &point);
            let [a, b] = [TaskProgram::record(&listed, &batch), TaskProgram::record(&one_by_one, &batch)]
                .map(|program| program.unwrap().gradients(&point, &batch).unwrap());
            assert_eq!((&a.tasks, &a.absent), (&b.tasks, &b.absent));
            a.rows.iter().zip(&b.rows).for_each(|(a, b)| assert_close(a, b, 0.0));
            assert_close(&a.own, &b.own, 0.0);
            // A checkpoint of one is a checkpoint of the other's names.
            let moved = point.clone().scale(2.0).write_into(listed.to_device(&device).valid()).unwrap();
            assert_same_bits(&Tree::from_module(&moved), &point.scale(2.0));
            let (((), first), others) = moved.forward(batch.0.clone());
            assert_eq!((first.dims(), others.len(), others[1].dims()), ([5, 1], 2, [5, 1]));
            assert!(format!("{moved}").contains("t2"));
        }
    }
}
