//! What settings cannot stand together, and why.

use super::{
    AggregatorName, ClipRule, Compute, DataName, Keep, LayerNorm, Learned, Metric, OptimizerName, Recipe, RobustMethod,
    ScaleRule, Schedule, Tasks,
};
use crate::error::{Error, Result};

impl Recipe {
    /// Whether gradients are clipped and made noisy example by example.
    pub fn is_private(&self) -> bool {
        self.clipping.rule == ClipRule::Dp
    }

    /// The rule of the loss scale, with `auto` resolved.
    pub fn loss_scale(&self) -> ScaleRule {
        match (self.precision.loss_scale, self.precision.compute) {
            (ScaleRule::Auto, Compute::F16) => ScaleRule::Dynamic,
            (ScaleRule::Auto, _) => ScaleRule::None,
            (rule, _) => rule,
        }
    }

    /// Refuses settings that contradict each other.
    ///
    /// # Errors
    /// [`Error::Value`], [`Error::Contradiction`].
    pub(super) fn check(&self, origin: &str) -> Result<()> {
        let spectrum = &self.spectrum;
        if spectrum.iterations < spectrum.eigenvalues {
            return Err(Error::Value {
                origin: origin.into(),
                field: "spectrum.iterations".into(),
                value: spectrum.iterations.to_string(),
                expected: format!("at least spectrum.eigenvalues = {}", spectrum.eigenvalues),
            });
        }
        match self.contradictions().into_iter().find(|(holds, ..)| *holds) {
            Some((_, one, other, why)) => {
                let [one, other, why] = [one, other, why].map(str::to_owned);
                Err(Error::Contradiction { origin: origin.into(), one, other, why })
            }
            None => Ok(()),
        }
    }

    /// Each pair of settings without a meaning together: whether it is here, the two, and the reason.
    fn contradictions(&self) -> Vec<(bool, &'static str, &'static str, &'static str)> {
        let dp = self.is_private();
        let method = self.adversarial.method;
        let learns_rate = self.bilevel.learn == Learned::LearningRate;
        let learns_decay = self.bilevel.learn == Learned::WeightDecay;
        let no_validation = self.data.validation == 0.0;
        let several = self.multitask.tasks != Tasks::None;
        let derived = matches!(self.multitask.tasks, Tasks::Parity | Tasks::ParityLarge);
        vec![
            (
                dp && self.model.norm == LayerNorm::Batch,
                "clipping.rule = dp",
                "model.norm = batch",
                "statistics of the batch mix its examples, so that clipping bounds no single one's influence; take group",
            ),
            (
                dp && several && self.multitask.aggregator != AggregatorName::Sum,
                "clipping.rule = dp",
                "multitask.aggregator other than sum",
                "it would look at the tasks' gradients before the noise is added, which the privacy account does not cover",
            ),
            (
                dp && method == RobustMethod::Free,
                "clipping.rule = dp",
                "adversarial.method = free",
                "a perturbation carried from one batch to the next makes an example's gradient depend on other examples; \
                 take pgd or fast",
            ),
            (
                dp && self.loss_scale() == ScaleRule::Dynamic,
                "clipping.rule = dp",
                "precision.loss_scale = dynamic",
                "the scale would follow overflows of gradients without noise; take compute = bf16 or loss_scale = fixed",
            ),
            (
                dp && learns_decay,
                "clipping.rule = dp",
                "bilevel.learn = weight-decay",
                "the validation gradient has no noise, so that its examples would not be private",
            ),
            (
                dp && self.clipping.noise > 0.0,
                "clipping.rule = dp",
                "clipping.noise above 0",
                "dp has its own noise, and the account knows only that: set noise_multiplier",
            ),
            (
                learns_rate && self.optimizer.schedule != Schedule::Constant,
                "bilevel.learn = learning-rate",
                "optimizer.schedule other than constant",
                "two rules for one number: the schedule would undo what is learned",
            ),
            (
                learns_rate && self.optimizer.warmup > 0,
                "bilevel.learn = learning-rate",
                "optimizer.warmup above 0",
                "two rules for one number: start from a small lr instead, it will grow",
            ),
            (
                learns_decay && self.optimizer.name != OptimizerName::AdamW,
                "bilevel.learn = weight-decay",
                "optimizer.name other than adamw",
                "only where the decay is decoupled from the gradient is the step's derivative in it known exactly",
            ),
            (
                learns_decay && self.optimizer.weight_decay == 0.0,
                "bilevel.learn = weight-decay",
                "optimizer.weight_decay = 0",
                "it is learned by factors, which leave zero where it is; start from a small one",
            ),
            (
                learns_decay && no_validation,
                "bilevel.learn = weight-decay",
                "data.validation = 0",
                "on the examples trained on the best decay is always zero; hold some out",
            ),
            (
                self.train.patience > 0 && no_validation,
                "train.patience above 0",
                "data.validation = 0",
                "there is nothing to judge by but the test set, which would then measure its own choice; hold some out",
            ),
            (
                self.train.keep == Keep::Best && no_validation,
                "train.keep = best",
                "data.validation = 0",
                "there is nothing to judge by but the test set, which would then measure its own choice; hold some out",
            ),
            (
                self.train.metric == Metric::RobustAccuracy && method == RobustMethod::None,
                "train.metric = robust-accuracy",
                "adversarial.method = none",
                "no threat is named to be robust against, and standard training has a robust accuracy near zero",
            ),
            (
                derived && !self.data.name.is_digits(),
                "multitask.tasks of digits",
                "data.name = idx, csv or png",
                "parity and size are of digits; take columns with label columns of your own",
            ),
            (
                self.multitask.tasks == Tasks::Columns && (self.data.name != DataName::Csv || self.data.labels < 2),
                "multitask.tasks = columns",
                "data without a second label column",
                "tasks come from the label columns of a CSV file: data.name = csv, data.labels of 2 or more",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recipe for each contradiction, and what its error has to name.
    const BAD: &[(&str, &[&str])] = &[
        ("[clipping]\nrule = \"dp\"\n[model]\nnorm = \"batch\"", &["model.norm = batch", "mix its examples"]),
        (
            "[clipping]\nrule = \"dp\"\n[multitask]\ntasks = \"digit+parity\"\naggregator = \"upgrad\"",
            &["aggregator other than sum", "before the noise"],
        ),
        (
            "[clipping]\nrule = \"dp\"\n[adversarial]\nmethod = \"free\"",
            &["adversarial.method = free", "other examples"],
        ),
        ("[clipping]\nrule = \"dp\"\n[precision]\ncompute = \"f16\"", &["loss_scale = dynamic", "without noise"]),
        (
            "[clipping]\nrule = \"dp\"\n[bilevel]\nlearn = \"weight-decay\"\n[data]\nvalidation = 0.2",
            &["bilevel.learn = weight-decay", "private"],
        ),
        ("[clipping]\nrule = \"dp\"\nnoise = 0.5", &["clipping.noise above 0", "noise_multiplier"]),
        (
            "[bilevel]\nlearn = \"learning-rate\"\n[optimizer]\nschedule = \"cosine\"",
            &["optimizer.schedule other than constant", "two rules"],
        ),
        ("[bilevel]\nlearn = \"learning-rate\"\n[optimizer]\nwarmup = 2", &["optimizer.warmup above 0", "two rules"]),
        (
            "[bilevel]\nlearn = \"weight-decay\"\n[optimizer]\nname = \"sgd\"\n[data]\nvalidation = 0.2",
            &["optimizer.name other than adamw", "decoupled"],
        ),
        (
            "[bilevel]\nlearn = \"weight-decay\"\n[optimizer]\nweight_decay = 0\n[data]\nvalidation = 0.2",
            &["optimizer.weight_decay = 0", "factors"],
        ),
        ("[bilevel]\nlearn = \"weight-decay\"", &["data.validation = 0", "hold some out"]),
        ("[train]\npatience = 3", &["train.patience", "test set"]),
        ("[train]\nkeep = \"best\"", &["train.keep = best", "test set"]),
        ("[train]\nmetric = \"robust-accuracy\"", &["adversarial.method = none", "no threat"]),
        ("[data]\nname = \"png\"\n[multitask]\ntasks = \"digit+parity\"", &["multitask.tasks", "columns"]),
        ("[data]\nname = \"csv\"\n[multitask]\ntasks = \"columns\"", &["second label column", "data.labels"]),
        ("[multitask]\ntasks = \"columns\"", &["second label column", "data.name = csv"]),
    ];

    #[test]
    fn each_contradiction_is_named_with_its_reason() {
        for (text, parts) in BAD {
            let message = Recipe::parse(text, "a.toml").unwrap_err().to_string();
            assert!(message.starts_with("a.toml: ") && !message.contains('\n'), "{message}");
            for part in *parts {
                assert!(message.contains(part), "{part} in {message}");
            }
        }
        // None of them is forgotten.
        let all = Recipe::default().contradictions().len();
        let whys: std::collections::BTreeSet<String> =
            BAD.iter().map(|(text, _)| Recipe::parse(text, "").unwrap_err().to_string()).collect();
        assert_eq!(whys.len(), all);
    }

    #[test]
    fn what_stands_beside_dp() {
        for text in [
            "[clipping]\nrule = \"dp\"\n[precision]\ncompute = \"bf16\"",
            "[clipping]\nrule = \"dp\"\n[precision]\ncompute = \"f16\"\nloss_scale = \"fixed\"",
            "[clipping]\nrule = \"dp\"\n[model]\nnorm = \"group\"\n[adversarial]\nmethod = \"pgd\"",
            "[clipping]\nrule = \"dp\"\n[multitask]\ntasks = \"digit+parity\"\n[bilevel]\nlearn = \"learning-rate\"",
        ] {
            Recipe::parse(text, "").unwrap();
        }
    }
}
