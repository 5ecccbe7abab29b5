//! Layers that draw random numbers while training.

use burn::nn::activation::RReluConfig;
use burn::nn::attention::{MhaInput, MultiHeadAttentionConfig};
use burn::nn::transformer::{TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{DropoutConfig, GaussianNoiseConfig};

use super::Table;

const REPLAY: &str = "one draw, replayed";

pub(super) fn stochastic(table: &mut Table) {
    table.layer("Dropout", [4, 5], |_| DropoutConfig::new(0.4).init(), |m, x| m.forward(x.sin())).random().note(REPLAY);
    table
        .layer("GaussianNoise", [3, 4], |_| GaussianNoiseConfig::new(0.3).init(), |m, x| m.forward(x.sin()))
        .random()
        .note(REPLAY);
    table.layer("RRelu, training", [4, 5], |_| RReluConfig::new().init(), |m, x| m.forward(x)).random().note(REPLAY);
    table
        .layer(
            "MultiHeadAttention, dropout",
            [2, 3, 4],
            |d| MultiHeadAttentionConfig::new(4, 2).with_dropout(0.3).init(d),
            |m, x| m.forward(MhaInput::self_attn(x)).context,
        )
        .divides()
        .random()
        .note(REPLAY);
    table
        .layer(
            "TransformerEncoder, dropout",
            [2, 3, 4],
            |d| TransformerEncoderConfig::new(4, 5, 2, 1).with_dropout(0.2).init(d),
            |m, x| m.forward(TransformerEncoderInput::new(x)),
        )
        .divides()
        .random()
        .note(REPLAY);
}
