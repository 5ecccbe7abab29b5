//! Attention, transformers and encodings of position.

use burn::nn::activation::{ActivationConfig, SwiGluConfig};
use burn::nn::attention::{
    CrossAttention, CrossAttentionCache, CrossAttentionConfig, MhaCache, MhaInput, MultiHeadAttention,
    MultiHeadAttentionConfig, generate_autoregressive_mask,
};
use burn::nn::transformer::{
    PositionWiseFeedForwardConfig, TransformerDecoder, TransformerDecoderConfig, TransformerDecoderInput,
    TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
};
use burn::nn::{Embedding, EmbeddingConfig, PositionalEncodingConfig, RotaryEncodingConfig};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Int, Tensor};

use super::{Expect, Net, Table, scalarise};

pub(super) fn attention(table: &mut Table) {
    table
        .layer(
            "MultiHeadAttention, self",
            [2, 3, 4],
            |d| MultiHeadAttentionConfig::new(4, 2).with_dropout(0.0).init(d),
            |m, x| m.forward(MhaInput::self_attn(x)).context,
        )
        .divides();
    table
        .add(
            "MultiHeadAttention, cross, quiet softmax, both masks",
            |draw| {
                let module = MultiHeadAttentionConfig::new(4, 2)
                    .with_dropout(0.0)
                    .with_quiet_softmax(true)
                    .with_key_bias(false)
                    .init(&draw.autodiff());
                let pad = draw.mask([2, 3], &[false, false, true, false, false, false]);
                let causal = draw.mask(
                    [2, 2, 3],
                    &[false, false, true, false, false, false, false, true, true, false, false, false],
                );
                (
                    draw.module(module),
                    (draw.param([2, 2, 4]), draw.param([2, 3, 4]), draw.param([2, 3, 4])),
                    (pad, causal),
                )
            },
            |net: &Net<MultiHeadAttention, _>, (pad, causal): &(Tensor<2, Bool>, Tensor<3, Bool>)| {
                let (query, key, value) = &net.input;
                let input =
                    MhaInput::new(query.val(), key.val(), value.val()).mask_pad(pad.clone()).mask_attn(causal.clone());
                let output = net.module.forward(input);
                scalarise(output.context) + scalarise(output.weights)
            },
        )
        .divides();
    table
        .layer(
            "MultiHeadAttention, cached",
            [1, 3, 4],
            |d| MultiHeadAttentionConfig::new(4, 2).with_dropout(0.0).init(d),
            |m, x| {
                let mut cache = MhaCache::autoregressive();
                let first = x.clone().slice([0..1, 0..2, 0..4]);
                m.forward_cache(MhaInput::self_attn(first), &mut cache);
                m.forward_cache(MhaInput::self_attn(x), &mut cache).context
            },
        )
        .divides();
    table.add(
        "CrossAttention, grouped queries, mask",
        |draw| {
            let module = CrossAttentionConfig::new(4, 3, 4, 2, 2).with_dropout(0.0).init(&draw.autodiff());
            let mask = draw.mask([2, 3], &[false, false, true, false, false, false]);
            (draw.module(module), (draw.param([2, 2, 4]), draw.param([2, 3, 3])), mask)
        },
        |net: &Net<CrossAttention, _>, mask: &Tensor<2, Bool>| {
            let (query, context) = &net.input;
            scalarise(net.module.forward(query.val(), context.val(), Some(mask.clone())))
        },
    );
    table.add(
        "CrossAttention, cached, quiet softmax",
        |draw| {
            let module = CrossAttentionConfig::new(4, 3, 2, 2, 2)
                .with_dropout(0.0)
                .with_quiet_softmax(true)
                .init(&draw.autodiff());
            (draw.module(module), (draw.param([2, 2, 4]), draw.param([2, 3, 3])), ())
        },
        |net: &Net<CrossAttention, _>, _| {
            let (query, context) = &net.input;
            let mut cache = CrossAttentionCache::new();
            scalarise(net.module.forward_cache(query.val(), context.val(), None, &mut cache))
        },
    );
    table.add(
        "attention (functional)",
        |draw| {
            let input = (draw.param([1, 2, 3, 2]), draw.param([1, 2, 3, 2]), draw.param([1, 2, 3, 2]));
            (burn::nn::Identity::new(), input, ())
        },
        |net: &Net<burn::nn::Identity, _>, _| {
            let (query, key, value) = &net.input;
            let options = AttentionModuleOptions::default();
            scalarise(burn::tensor::module::attention(query.val(), key.val(), value.val(), None, None, options))
        },
    );
}

pub(super) fn transformer(table: &mut Table) {
    table.layer(
        "PositionWiseFeedForward",
        [2, 3, 4],
        |d| PositionWiseFeedForwardConfig::new(4, 5).with_dropout(0.0).init(d),
        |m, x| m.forward(x),
    );
    table
        .layer(
            "PositionWiseFeedForward, SwiGLU",
            [2, 4],
            |d| {
                PositionWiseFeedForwardConfig::new(4, 5)
                    .with_dropout(0.0)
                    .with_activation(ActivationConfig::SwiGlu(SwiGluConfig::new(5, 5)))
                    .init(d)
            },
            |m, x| m.forward(x),
        )
        .expect(Expect::Uncovered(vec!["uses a tensor from outside", "`#[module(skip)]`"]))
        .note("Burn hides this activation's parameters from visitors (`#[module(skip)]`)");
    table
        .layer(
            "TransformerEncoder",
            [2, 3, 4],
            |d| TransformerEncoderConfig::new(4, 5, 2, 1).with_dropout(0.0).init(d),
            |m, x| m.forward(TransformerEncoderInput::new(x)),
        )
        .divides();
    table
        .add(
            "TransformerEncoder, norm first, 2 layers, both masks",
            |draw| {
                let module = TransformerEncoderConfig::new(4, 4, 2, 2)
                    .with_dropout(0.0)
                    .with_norm_first(true)
                    .init(&draw.autodiff());
                let pad = draw.mask([2, 3], &[false, false, true, false, false, false]);
                let causal = generate_autoregressive_mask(2, 3, &draw.device());
                (draw.module(module), draw.param([2, 3, 4]), (pad, causal))
            },
            |net: &Net<TransformerEncoder, _>, (pad, causal): &(Tensor<2, Bool>, Tensor<3, Bool>)| {
                let input =
                    TransformerEncoderInput::new(net.input.val()).mask_pad(pad.clone()).mask_attn(causal.clone());
                scalarise(net.module.forward(input))
            },
        )
        .divides();
    table
        .layer(
            "TransformerEncoder, cached",
            [1, 3, 4],
            |d| TransformerEncoderConfig::new(4, 4, 2, 1).with_dropout(0.0).init(d),
            |m, x| {
                let mut cache = m.new_autoregressive_cache();
                let first = TransformerEncoderInput::new(x.clone().slice([0..1, 0..2, 0..4]));
                m.forward_autoregressive_inference(first, &mut cache);
                m.forward_autoregressive_inference(TransformerEncoderInput::new(x), &mut cache)
            },
        )
        .divides();
    table
        .add(
            "TransformerDecoder",
            |draw| {
                let module = TransformerDecoderConfig::new(4, 5, 2, 1).with_dropout(0.0).init(&draw.autodiff());
                (draw.module(module), (draw.param([2, 3, 4]), draw.param([2, 2, 4])), ())
            },
            |net: &Net<TransformerDecoder, _>, _| {
                let (target, memory) = &net.input;
                scalarise(net.module.forward(TransformerDecoderInput::new(target.val(), memory.val())))
            },
        )
        .divides();
    table
        .add(
            "TransformerDecoder, norm first, quiet softmax, masks",
            |draw| {
                let module = TransformerDecoderConfig::new(4, 4, 2, 1)
                    .with_dropout(0.0)
                    .with_norm_first(true)
                    .with_quiet_softmax(true)
                    .init(&draw.autodiff());
                let causal = generate_autoregressive_mask(2, 3, &draw.device());
                let pad = draw.mask([2, 2], &[false, false, false, true]);
                (draw.module(module), (draw.param([2, 3, 4]), draw.param([2, 2, 4])), (pad, causal))
            },
            |net: &Net<TransformerDecoder, _>, (pad, causal): &(Tensor<2, Bool>, Tensor<3, Bool>)| {
                let (target, memory) = &net.input;
                let input = TransformerDecoderInput::new(target.val(), memory.val())
                    .target_mask_attn(causal.clone())
                    .memory_mask_pad(pad.clone());
                scalarise(net.module.forward(input))
            },
        )
        .divides();
    table
        .add(
            "TransformerDecoder, cached",
            |draw| {
                let module = TransformerDecoderConfig::new(4, 4, 2, 1).with_dropout(0.0).init(&draw.autodiff());
                (draw.module(module), (draw.param([1, 3, 4]), draw.param([1, 2, 4])), ())
            },
            |net: &Net<TransformerDecoder, _>, _| {
                let (target, memory) = &net.input;
                let mut cache = net.module.new_autoregressive_cache();
                let first = target.val().slice([0..1, 0..2, 0..4]);
                let step = TransformerDecoderInput::new(first, memory.val());
                net.module.forward_autoregressive_inference(step, &mut cache);
                let step = TransformerDecoderInput::new(target.val(), memory.val());
                scalarise(net.module.forward_autoregressive_inference(step, &mut cache))
            },
        )
        .divides();
}

pub(super) fn encodings(table: &mut Table) {
    table.add(
        "Embedding, repeated indices",
        |draw| {
            let module = EmbeddingConfig::new(5, 3).init(&draw.autodiff());
            let tokens = draw.exactly([2, 3], &[4, 0, 2, 2, 1, 4]);
            (draw.module(module), burn::nn::Identity::new(), tokens)
        },
        |net: &Net<Embedding, _>, tokens: &Tensor<2, Int>| scalarise(net.module.forward(tokens.clone())),
    );
    table.layer(
        "PositionalEncoding",
        [2, 3, 4],
        |d| PositionalEncodingConfig::new(4).with_max_sequence_size(6).init(d),
        |m, x| m.forward(x),
    );
    table.layer("RotaryEncoding", [2, 3, 4], |d| RotaryEncodingConfig::new(6, 4).init(d), |m, x| m.forward(x));
    table.layer(
        "RotaryEncoding, from position 2, rank 4",
        [1, 2, 3, 4],
        |d| RotaryEncodingConfig::new(6, 4).init(d),
        |m, x| m.apply(x, 2),
    );
}
