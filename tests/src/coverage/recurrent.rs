//! Recurrent layers.

use burn::nn::activation::ActivationConfig;
use burn::nn::{
    BiGruConfig, BiLstmConfig, BiRnnConfig, GruConfig, Lstm, LstmConfig, LstmState, Rnn, RnnConfig, RnnState,
};
use burn::tensor::Tensor;

use super::{Net, Table, scalarise};

pub(super) fn recurrent(table: &mut Table) {
    table.layer("Rnn", [2, 3, 2], |d| RnnConfig::new(2, 3, true).init(d), |m, x| m.forward(x, None).0);
    table.layer(
        "Rnn, reversed, sequence first, no bias, GELU",
        [3, 2, 2],
        |d| {
            RnnConfig::new(2, 3, false)
                .with_reverse(true)
                .with_batch_first(false)
                .with_hidden_activation(ActivationConfig::Gelu)
                .init(d)
        },
        |m, x| m.forward(x, None).0,
    );
    table.add(
        "Rnn, initial state, clipped",
        |draw| {
            let module = RnnConfig::new(2, 3, true).with_clip(Some(0.6)).init(&draw.autodiff());
            (draw.module(module), (draw.param([2, 3, 2]), draw.param([2, 3])), ())
        },
        |net: &Net<Rnn, _>, _| {
            let (x, hidden) = &net.input;
            let (output, state) = net.module.forward(x.val(), Some(RnnState::new(hidden.val())));
            scalarise(output) + scalarise(state.hidden)
        },
    );
    table.layer("BiRnn", [2, 3, 2], |d| BiRnnConfig::new(2, 2, true).init(d), |m, x| m.forward(x, None).0);

    table.layer("Lstm", [2, 3, 2], |d| LstmConfig::new(2, 3, true).init(d), |m, x| m.forward(x, None).0);
    table.layer(
        "Lstm, reversed, sequence first, no bias",
        [3, 2, 2],
        |d| LstmConfig::new(2, 2, false).with_reverse(true).with_batch_first(false).init(d),
        |m, x| m.forward(x, None).0,
    );
    table.layer(
        "Lstm, coupled gates, clipped, other activations",
        [2, 3, 2],
        |d| {
            LstmConfig::new(2, 2, true)
                .with_input_forget(true)
                .with_clip(Some(0.6))
                .with_cell_activation(ActivationConfig::Softsign)
                .with_hidden_activation(ActivationConfig::Gelu)
                .init(d)
        },
        |m, x| m.forward(x, None).0,
    );
    table.add(
        "Lstm, initial state",
        |draw| {
            let module = LstmConfig::new(2, 3, true).init(&draw.autodiff());
            (draw.module(module), (draw.param([2, 3, 2]), draw.param([2, 3]), draw.param([2, 3])), ())
        },
        |net: &Net<Lstm, _>, _| {
            let (x, cell, hidden) = &net.input;
            let (output, state) = net.module.forward(x.val(), Some(LstmState::new(cell.val(), hidden.val())));
            scalarise(output) + scalarise(state.cell)
        },
    );
    table.layer("BiLstm", [2, 3, 2], |d| BiLstmConfig::new(2, 2, true).init(d), |m, x| m.forward(x, None).0);

    table.layer("Gru", [2, 3, 2], |d| GruConfig::new(2, 3, true).init(d), |m, x| m.forward(x, None));
    table.layer(
        "Gru, reset before, no bias, clipped",
        [2, 3, 2],
        |d| GruConfig::new(2, 3, false).with_reset_after(false).with_clip(Some(0.6)).init(d),
        |m, x| m.forward(x, None),
    );
    table.layer(
        "BiGru",
        [2, 3, 2],
        |d| BiGruConfig::new(2, 2, true).init(d),
        |m, x| {
            let (output, state): (Tensor<3>, Tensor<3>) = m.forward(x, None);
            Tensor::cat(vec![output.reshape([-1, 2]), state.reshape([-1, 2])], 0)
        },
    );
}
