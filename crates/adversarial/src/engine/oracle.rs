//! How a running attack asks the model.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::loss::Loss;

/// What the model says about one point.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The point's logits.
    pub logits: Vec<f32>,
    /// Whether the goal is reached there, inside the threat or not.
    pub reached: bool,
    /// The value of the loss asked for; 0 where none was.
    pub loss: f64,
    /// The gradient of that loss in the point; empty where none was asked for. Elements that were `NaN` are 0.
    pub gradient: Vec<f32>,
}

/// What an attack has asked and not been told yet.
pub(crate) struct Request {
    /// Points one after the other.
    pub points: Vec<f32>,
    /// The loss of each point, or none for logits only.
    pub losses: Vec<Loss>,
    /// Whether gradients of the losses are asked for.
    pub gradient: bool,
}

/// The exchange between one run and the engine.
#[derive(Default)]
pub(crate) struct Exchange {
    pub request: Option<Request>,
    pub answers: Option<Vec<Answer>>,
    /// The distance of the nearest success so far.
    pub nearest: Option<f64>,
}

/// What a run asks the model through.
///
/// Every question waits for the engine, which answers the questions of many examples in one batch.
#[derive(Clone)]
pub struct Oracle(Arc<Mutex<Exchange>>);

impl Oracle {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn exchange(&self) -> MutexGuard<'_, Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logits of a point: one query.
    pub async fn logits(&self, x: &[f32]) -> Answer {
        one(self.ask(x.to_vec(), Vec::new(), false).await)
    }

    /// Logits of many points, given one after the other: a query each.
    pub async fn many_logits(&self, points: Vec<f32>) -> Vec<Answer> {
        self.ask(points, Vec::new(), false).await
    }

    /// Logits and a loss of them: one query. [`Search::Worst`](crate::Search) compares points by the losses asked for.
    pub async fn value(&self, x: &[f32], loss: Loss) -> Answer {
        one(self.ask(x.to_vec(), vec![loss], false).await)
    }

    /// The same for many points, given one after the other, with a loss each.
    pub async fn values(&self, points: Vec<f32>, losses: Vec<Loss>) -> Vec<Answer> {
        self.ask(points, losses, false).await
    }

    /// Logits, a loss of them, and its gradient in a point: one query and one gradient.
    pub async fn gradient(&self, x: &[f32], loss: Loss) -> Answer {
        one(self.ask(x.to_vec(), vec![loss], true).await)
    }

    /// The same for many points, given one after the other, with a loss each. For gradients of several losses at one point,
    /// repeat the point.
    pub async fn gradients(&self, points: Vec<f32>, losses: Vec<Loss>) -> Vec<Answer> {
        self.ask(points, losses, true).await
    }

    fn ask(&self, points: Vec<f32>, losses: Vec<Loss>, gradient: bool) -> Asked<'_> {
        Asked { oracle: self, request: Some(Request { points, losses, gradient }) }
    }

    /// The distance of the nearest success that this run has met, in the threat's norm.
    pub fn nearest(&self) -> Option<f64> {
        self.exchange().nearest
    }
}

fn one(mut answers: Vec<Answer>) -> Answer {
    answers.pop().unwrap_or_default()
}

/// Leaves the request and waits for its answers.
struct Asked<'a> {
    oracle: &'a Oracle,
    request: Option<Request>,
}

impl Future for Asked<'_> {
    type Output = Vec<Answer>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Vec<Answer>> {
        let request = self.request.take();
        let mut exchange = self.oracle.exchange();
        match request {
            Some(request) if request.points.is_empty() => Poll::Ready(Vec::new()),
            Some(request) => {
                exchange.request = Some(request);
                Poll::Pending
            }
            None => exchange.answers.take().map_or(Poll::Pending, Poll::Ready),
        }
    }
}
