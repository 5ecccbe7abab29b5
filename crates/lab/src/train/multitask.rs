//! Table `[multitask]`: how the tasks' gradients become one.
//!
//! The sum is one backward pass of the summed loss. Every other method needs a row for each task; it aggregates what they say of the body, and
//! each head keeps the gradient of its own task's loss.

use core_tensor::Tree;
use core_tensor::transform::State;
use multitask::{Aggregator, AlignedMtl, CaGrad, ConFig, DualProj, ImtlG, Mean, Method, Mgda, NashMtl, PcGrad, UpGrad};

use crate::error::Result;
use crate::recipe::{AggregatorName, Recipe, Tasks};

/// Makes one gradient of a row for each task.
pub struct Aggregation(Box<dyn Aggregator>);

impl Aggregation {
    /// The recipe's method; `None` where one backward pass of the summed loss does.
    ///
    /// # Errors
    /// None with a recipe's ranges.
    pub fn new(recipe: &Recipe) -> Result<Option<Self>> {
        let method: Box<dyn Aggregator> = match recipe.multitask.aggregator {
            _ if recipe.multitask.tasks == Tasks::None => return Ok(None),
            AggregatorName::Sum => return Ok(None),
            AggregatorName::Mean => Box::new(Mean::new()),
            AggregatorName::UpGrad => Box::new(UpGrad::new()),
            AggregatorName::DualProj => Box::new(DualProj::new()),
            AggregatorName::Mgda => Box::new(Mgda::new()),
            AggregatorName::CaGrad => Box::new(CaGrad::new(0.5)?),
            AggregatorName::PcGrad => Box::new(PcGrad::new(recipe.train.seed)),
            AggregatorName::ImtlG => Box::new(ImtlG::new()),
            AggregatorName::AlignedMtl => Box::new(AlignedMtl::new()),
            AggregatorName::ConFig => Box::new(ConFig::new()),
            AggregatorName::NashMtl => Box::new(NashMtl::new()),
        };
        Ok(Some(Self(method)))
    }

    /// The gradient to step along.
    ///
    /// # Errors
    /// Those of the method, such as bargaining over opposite gradients.
    pub fn aggregate(&mut self, rows: Vec<Tree>) -> Result<Tree> {
        let mut body = Vec::with_capacity(rows.len());
        let mut heads = Tree::empty();
        for (task, row) in rows.into_iter().enumerate() {
            let (of_heads, of_body) = row.partition(|name| name.path.starts_with("heads."));
            let own = format!("heads.{task}.");
            heads = heads.merge(of_heads.filter(|name| name.path.starts_with(&own)))?;
            body.push(of_body);
        }
        Ok(self.0.aggregate(&body)?.gradient.merge(heads)?)
    }

    /// What changes from step to step.
    pub fn state(&self) -> State {
        self.0.state()
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// The state of something else.
    pub fn load_state(&mut self, state: State) -> Result<()> {
        Ok(self.0.load_state(state)?)
    }
}
