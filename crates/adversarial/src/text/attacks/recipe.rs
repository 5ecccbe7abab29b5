//! An attack put together from parts.

use std::sync::Arc;

use super::{TextAttack, TextSetting};
use crate::attack::Walk;
use crate::error::{Error, Result};
use crate::text::constraint::Constraint;
use crate::text::engine::{TextCase, TextOracle};
use crate::text::search::{Space, TextSearch};
use crate::text::transformation::Transformation;

/// An attack put together from what may become of a word, what has to be kept, and how candidates are tried. The named attacks are
/// recipes with a paper's parts.
///
/// Guarantee: what an attack gives satisfies all its constraints (`results_satisfy_all_constraints`).
///
/// Errors: [`Error::Unsupported`] without a transformation, and what the parts refuse.
///
/// ```
/// use std::sync::Arc;
/// use adversarial::text::{Beam, ChangeOnce, MostChanged, Recipe, StopWords, SynonymList, Synonyms};
///
/// let thesaurus = Arc::new(SynonymList::new([("good", "fine"), ("film", "movie")]));
/// let attack = Recipe::new("two synonyms", Beam::new(4))
///     .transformation(Synonyms::new(thesaurus))
///     .constraint(StopWords::english())
///     .constraint(ChangeOnce)
///     .constraint(MostChanged::words(2));
/// # let _ = attack;
/// ```
#[derive(Clone)]
pub struct Recipe {
    name: String,
    transformations: Vec<Arc<dyn Transformation>>,
    constraints: Vec<Arc<dyn Constraint>>,
    search: Arc<dyn TextSearch>,
    unknown: String,
}

impl Recipe {
    /// A recipe with a search and nothing to try yet.
    pub fn new(name: impl Into<String>, search: impl TextSearch + 'static) -> Self {
        Self {
            name: name.into(),
            transformations: Vec::new(),
            constraints: Vec::new(),
            search: Arc::new(search),
            unknown: "[UNK]".into(),
        }
    }

    /// Adds what may become of a word.
    pub fn transformation(mut self, transformation: impl Transformation + 'static) -> Self {
        self.transformations.push(Arc::new(transformation));
        self
    }

    /// The same of one that is shared.
    pub(super) fn shared_transformation(mut self, transformation: Arc<dyn Transformation>) -> Self {
        self.transformations.push(transformation);
        self
    }

    /// Adds what has to be kept.
    pub fn constraint(mut self, constraint: impl Constraint + 'static) -> Self {
        self.constraints.push(Arc::new(constraint));
        self
    }

    /// Adds many of them.
    pub(super) fn constraints(mut self, constraints: &[Arc<dyn Constraint>]) -> Self {
        self.constraints.extend(constraints.iter().cloned());
        self
    }

    /// Sets the word that stands for an unknown one where importance is measured; `[UNK]` unless set.
    pub fn unknown(self, word: impl Into<String>) -> Self {
        Self { unknown: word.into(), ..self }
    }

    /// Whether a sentence satisfies all constraints.
    pub fn allows(&self, sentence: &crate::text::Sentence) -> bool {
        self.constraints.iter().all(|constraint| constraint.allows(sentence))
    }

    /// The walk of a recipe that is made for it.
    pub(super) fn into_walk<'a>(self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
        Box::pin(async move { self.search_in(&case, &oracle).await })
    }

    async fn search_in<'s>(&'s self, case: &'s TextCase<'s>, oracle: &'s TextOracle) {
        let (transformations, constraints) = (&self.transformations[..], &self.constraints[..]);
        let space = Space { case, transformations, constraints, unknown: &self.unknown };
        self.search.search(&space, oracle).await;
    }
}

impl TextAttack for Recipe {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn needs_gradients(&self) -> bool {
        self.search.needs_gradients()
    }

    fn check(&self, _setting: &TextSetting) -> Result<()> {
        if self.transformations.is_empty() {
            let (what, supported) = ("a search without a transformation".to_owned(), "one at least");
            return Err(Error::Unsupported { attack: self.name(), what, supported });
        }
        self.transformations.iter().try_for_each(|transformation| transformation.check())?;
        self.constraints.iter().try_for_each(|constraint| constraint.check())?;
        self.search.check()
    }

    fn walk<'a>(&'a self, case: TextCase<'a>, oracle: TextOracle) -> Walk<'a> {
        Box::pin(async move { self.search_in(&case, &oracle).await })
    }
}
