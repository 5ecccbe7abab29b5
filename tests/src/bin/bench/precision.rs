//! Quantisation and unscaling in copies of the tensor's bytes, beside the peers.

use std::cell::RefCell;
use std::fmt::Write as _;

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Tree;
use core_tensor::transform::{Context, GradientTransform, Update};
use mixed_precision::{Format, LossScale, Mx, NvFp4, Overflow, Quantizer, Rounding, SharedLossScale, Uniform};

use crate::{Copy, Held, Peers, medians};

const ELEMENTS: usize = 1 << 24;

/// Every operation on a tensor of its own, for most work in place.
pub fn run(out: &mut String, peers: &Peers) {
    let device = Device::default();
    let tensor = || {
        // Magnitudes from 2^-12 to 2^4, signs alternating: normal and subnormal numbers of every format.
        let number = |i: usize| {
            let size = ((i * 7919 % 16_000) as f32 * 1e-3 - 12.0).exp2();
            if i.is_multiple_of(2) { size } else { -size }
        };
        let values: Vec<f32> = (0..ELEMENTS).map(number).collect();
        Tensor::<1>::from_data(TensorData::new(values, [ELEMENTS]), &device)
    };
    let x = tensor();
    let held = Held::new(tensor());
    let buffers = Copy::new(ELEMENTS);
    let (one, two) = (|| buffers.one_thread(), || buffers.two_threads());

    let quantizer = |format| Quantizer::new(format).overflow(Overflow::Saturate);
    let fake = |q: Quantizer| {
        let held = &held;
        move || held.update(|x| q.fake_quantize(x).unwrap())
    };
    let (bf16, f16) = (quantizer(Format::BF16), quantizer(Format::F16));
    let (e4m3, e5m2, e2m1) = (quantizer(Format::E4M3FN), quantizer(Format::E5M2), quantizer(Format::E2M1FN));
    let noisy = |q: Quantizer| q.rounding(Rounding::Stochastic(7));
    let (fake_bf16, fake_f16, fake_e4m3, fake_e5m2) = (fake(bf16), fake(f16), fake(e4m3), fake(e5m2));
    let (noisy_bf16, noisy_e4m3) = (fake(noisy(bf16)), fake(noisy(e4m3)));
    let mx = Mx::new(Format::E4M3FN).unwrap();
    let mx4 = Mx::new(Format::E2M1FN).unwrap();
    let fake_mx = || held.update(|x| mx.fake_quantize(x).unwrap());
    let fake_mx4 = || held.update(|x| mx4.fake_quantize(x).unwrap());
    let fake_nv = || held.update(|x| NvFp4::new().fake_quantize(x).unwrap());
    let int8 = Uniform::symmetric(8).unwrap();
    let fake_int8 = || held.update(|x| int8.fake_quantize(x).unwrap());

    let pack = |q: Quantizer| {
        let x = &x;
        move || drop(q.pack(x).unwrap())
    };
    let unpack = |q: Quantizer| {
        let (packed, device) = (q.pack(&x).unwrap(), &device);
        move || drop(packed.unpack::<1>(device).unwrap())
    };
    let (pack_bf16, pack_e4m3, pack_e2m1) = (pack(bf16), pack(e4m3), pack(e2m1));
    let (unpack_bf16, unpack_e4m3, unpack_e2m1) = (unpack(bf16), unpack(e4m3), unpack(e2m1));
    let (stored_mx, stored_nv) = (mx.quantize(&x).unwrap(), NvFp4::new().quantize(&x).unwrap());
    let stored_int8 = int8.quantize(&x).unwrap();
    let pack_mx = || drop(mx.quantize(&x).unwrap());
    let unpack_mx = || drop(stored_mx.dequantize::<1>(&device).unwrap());
    let pack_nv = || drop(NvFp4::new().quantize(&x).unwrap());
    let unpack_nv = || drop(stored_nv.dequantize::<1>(&device).unwrap());
    let pack_int8 = || drop(int8.quantize(&x).unwrap());
    let unpack_int8 = || drop(stored_int8.dequantize::<1>(&device).unwrap());

    let grads = Held::new(Tree::empty().push("g", tensor()).unwrap());
    let pass = || grads.update(|grads| grads.scale(1.000_001));
    let rule = RefCell::new(SharedLossScale::new(LossScale::fixed(1.0).unwrap()).unscale());
    let unscale = || {
        grads.update(|grads| match rule.borrow_mut().apply(grads, &Context::new(0)) {
            Ok(Update::Apply(grads)) => grads,
            Ok(Update::Skip { why }) => panic!("{why}"),
            Err(error) => panic!("{error}"),
        });
    };

    let runs: [(&str, &dyn Fn()); 26] = [
        ("copy, one thread", &one),
        ("copy, two threads", &two),
        ("scale in place (one read, one write)", &pass),
        ("unscale, finite and norm in one pass", &unscale),
        ("fake quantisation: bf16", &fake_bf16),
        ("fake quantisation: f16", &fake_f16),
        ("fake quantisation: e4m3fn", &fake_e4m3),
        ("fake quantisation: e5m2", &fake_e5m2),
        ("fake quantisation: bf16, stochastic", &noisy_bf16),
        ("fake quantisation: e4m3fn, stochastic", &noisy_e4m3),
        ("fake quantisation: MXFP8 (e4m3fn)", &fake_mx),
        ("fake quantisation: MXFP4", &fake_mx4),
        ("fake quantisation: NVFP4", &fake_nv),
        ("fake quantisation: int8, one scale", &fake_int8),
        ("pack: bf16", &pack_bf16),
        ("pack: e4m3fn", &pack_e4m3),
        ("pack: e2m1fn", &pack_e2m1),
        ("pack: MXFP8", &pack_mx),
        ("pack: NVFP4", &pack_nv),
        ("pack: int8", &pack_int8),
        ("unpack: bf16", &unpack_bf16),
        ("unpack: e4m3fn", &unpack_e4m3),
        ("unpack: e2m1fn", &unpack_e2m1),
        ("unpack: MXFP8", &unpack_mx),
        ("unpack: NVFP4", &unpack_nv),
        ("unpack: int8", &unpack_int8),
    ];
    let times = medians(runs.map(|(_, run)| run), &[2; 26]);
    let copy = times[0].min(times[1]);
    writeln!(out, "### Precision, 16 M f32 elements\n").unwrap();
    writeln!(out, "| operation | time | copies of the tensor |\n|---|---|---|").unwrap();
    for (name, ms) in runs.iter().map(|(name, _)| *name).zip(times) {
        writeln!(out, "| {name} | {ms:.2} ms | {:.2} |", ms / copy).unwrap();
    }
    for ((operation, peer, _), copies) in peers.iter().filter(|((_, _, what), _)| what == "precision") {
        writeln!(out, "| {peer}: {operation} | – | {copies:.2} |").unwrap();
    }
    writeln!(out).unwrap();
}
