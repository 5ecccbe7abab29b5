//! Vector operations of trees on the host, beside a copy of memory: `cargo bench --bench tree`.
//!
//! The bytes counted are those the operation must move: `axpy` reads two buffers and writes one,
//! `scale` and `copy` read one and write one, `dot` reads two, `norm` one.

use std::hint::black_box;
use std::mem;

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::{Random, Tree};
use divan::Bencher;
use divan::counter::BytesCount;
use rayon::prelude::*;

/// Elements of the large tree.
const ELEMENTS: usize = 10_000_000;
/// Elements of one task of the parallel copy, as in the tree's own loops.
const CHUNK: usize = 1 << 14;

fn main() {
    divan::main();
}

fn values(length: usize) -> Vec<f32> {
    (0..length).map(|i| (i % 1000) as f32 * 1e-3).collect()
}

/// One leaf on flex.
fn large() -> Tree {
    let data = TensorData::new(values(ELEMENTS), [ELEMENTS]);
    let leaf = Tensor::<1>::from_data(data, &Device::flex());
    Tree::empty().push("x", leaf).expect("one leaf")
}

/// 200 leaves of 1000 elements on flex.
fn many() -> Tree {
    let zeros = (0..200)
        .try_fold(Tree::empty(), |tree, i| tree.push(format!("{i}"), Tensor::<1>::zeros([1000], &Device::flex())));
    Random::new(0).normal_like(&zeros.expect("names differ"), 1.0)
}

fn bytes(buffers: usize) -> BytesCount {
    BytesCount::of_many::<f32>(buffers * ELEMENTS)
}

#[divan::bench]
fn copy_on_one_thread(bencher: Bencher) {
    let (from, mut to) = (values(ELEMENTS), values(ELEMENTS));
    bencher.counter(bytes(2)).bench_local(|| black_box(&mut to).copy_from_slice(black_box(&from)));
}

#[divan::bench]
fn copy_on_all_threads(bencher: Bencher) {
    let (from, mut to) = (values(ELEMENTS), values(ELEMENTS));
    bencher.counter(bytes(2)).bench_local(|| {
        black_box(&mut to)
            .par_chunks_mut(CHUNK)
            .zip(black_box(&from).par_chunks(CHUNK))
            .for_each(|(to, from)| to.copy_from_slice(from));
    });
}

#[divan::bench]
fn axpy(bencher: Bencher) {
    let (mut x, y) = (large(), large());
    bencher.counter(bytes(3)).bench_local(|| {
        x = mem::take(&mut x).axpy(1e-6, &y).expect("one structure");
    });
}

#[divan::bench]
fn scale(bencher: Bencher) {
    let mut x = large();
    bencher.counter(bytes(2)).bench_local(|| {
        x = mem::take(&mut x).scale(0.999);
    });
}

#[divan::bench]
fn dot(bencher: Bencher) {
    let (x, y) = (large(), large());
    bencher.counter(bytes(2)).bench_local(|| x.dot(&y).expect("one structure").value());
}

#[divan::bench]
fn norm(bencher: Bencher) {
    let x = large();
    bencher.counter(bytes(1)).bench_local(|| x.norm().value());
}

#[divan::bench]
fn norm_and_scale_of_200_leaves(bencher: Bencher) {
    let mut x = many();
    bencher.bench_local(|| {
        let norm = x.norm();
        x = mem::take(&mut x).scale_by(&(norm.clone() / norm));
    });
}

#[divan::bench]
fn clone_and_scale(bencher: Bencher) {
    let x = large();
    bencher.counter(bytes(2)).bench_local(|| x.clone().scale(0.999));
}

#[divan::bench]
fn normal_numbers(bencher: Bencher) {
    let x = many();
    let mut random = Random::new(0);
    bencher.bench_local(|| random.normal_like(&x, 1.0));
}
