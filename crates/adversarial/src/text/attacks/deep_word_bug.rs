//! DeepWordBug.

use std::sync::Arc;

use super::{Recipe, TextAttack, TextSetting};
use crate::attack::Walk;
use crate::error::Result;
use crate::text::constraint::{ChangeOnce, Constraint, EditDistance};
use crate::text::engine::{TextCase, TextOracle};
use crate::text::search::{Greedy, Importance};
use crate::text::transformation::{
    DeleteCharacter, InsertCharacter, KeyboardTypo, Places, SubstituteCharacter, SwapCharacters,
};

/// DeepWordBug: misspells the words that matter most, so that the model no longer knows them. Needs neither gradients nor
/// data.
///
/// Words by falling importance; for each the best of four misspellings at random places: two characters exchanged, one
/// replaced, one taken out, one put in.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`importance`](Self::importance) | combined, `λ` = 1 | | which words first; with [`Importance::DeleteOne`] half the queries |
/// | [`most_edits`](Self::most_edits) | 30 | | Levenshtein distance from the original, in characters |
/// | [`keyboard`](Self::keyboard) | no | | replacing letters are neighbours on the keyboard, not any |
/// | [`places`](Self::places) | random | | [`Places::RandomInside`] spares first and last letters, [`Places::All`] tries every place |
/// | [`constraint`](Self::constraint) | none | | more to be kept |
///
/// Cost: at most 4 queries a word for the importance, 4 a word that is changed.
///
/// Errors: [`Error::Parameter`](crate::Error::Parameter) for a negative `λ`.
///
/// J. Gao, J. Lanchantin, M. L. Soffa, Y. Qi, "Black-box generation of adversarial text sequences to evade deep learning
/// classifiers", 2018, arXiv:1801.04354, algorithm 1. Deviation: the paper makes one misspelling of each word and asks at the end; here
/// the best of the four is kept, which asks more and changes fewer words.
///
/// ```
/// use adversarial::text::DeepWordBug;
///
/// let attack = DeepWordBug::new().most_edits(5).keyboard();
/// # let _ = attack;
/// ```
#[derive(Clone)]
pub struct DeepWordBug {
    importance: Importance,
    most_edits: usize,
    keyboard: bool,
    places: Places,
    constraints: Vec<Arc<dyn Constraint>>,
}

impl Default for DeepWordBug {
    fn default() -> Self {
        Self::new()
    }
}

impl DeepWordBug {
    /// With the paper's parameters.
    pub fn new() -> Self {
        let (importance, places) = (Importance::Combined(1.0), Places::Random);
        Self { importance, most_edits: 30, keyboard: false, places, constraints: Vec::new() }
    }

    /// Sets which words come first.
    pub fn importance(self, importance: Importance) -> Self {
        Self { importance, ..self }
    }

    /// Sets the largest edit distance.
    pub fn most_edits(self, most_edits: usize) -> Self {
        Self { most_edits, ..self }
    }

    /// Replaces letters by their neighbours on the keyboard.
    pub fn keyboard(self) -> Self {
        Self { keyboard: true, ..self }
    }

    /// Sets where in a word characters are changed.
    pub fn places(self, places: Places) -> Self {
        Self { places, ..self }
    }

    /// Adds what has to be kept.
    pub fn constraint(mut self, constraint: impl Constraint + 'static) -> Self {
        self.constraints.push(Arc::new(constraint));
        self
    }

    /// The parts.
    pub fn recipe(&self) -> Recipe {
        let recipe =
            Recipe::new(self.name(), Greedy::new(self.importance)).transformation(SwapCharacters::new(self.places));
        let recipe = match self.keyboard {
            true => recipe.transformation(KeyboardTypo::new(self.places)),
            false => recipe.transformation(SubstituteCharacter::new(self.places)),
        };
        recipe
            .transformation(DeleteCharacter::new(self.places))
            .transformation(InsertCharacter::new(self.places))
            .constraint(ChangeOnce)
            .constraint(EditDistance::new(self.most_edits))
            .constraints(&self.constraints)
    }
}

impl TextAttack for DeepWordBug {
    fn name(&self) -> String {
        "DeepWordBug".into()
    }

    fn needs_gradients(&self) -> bool {
        self.importance == Importance::Gradient
    }

    fn check(&self, setting: &TextSetting) -> Result<()> {
        self.recipe().check(setting)
    }

    fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
        self.recipe().into_walk(case, oracle)
    }
}
