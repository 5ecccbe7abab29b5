//! How a running attack asks the model.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::super::{Sentence, TokenGradients};

/// What the model says about one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The text's logits.
    pub logits: Arc<[f64]>,
    /// How near they are to the goal; minus infinity where they are no numbers.
    pub score: f64,
}

/// What an attack has asked and not been told yet.
pub(super) enum Request {
    /// Texts to learn from. None of them is a result.
    Probe(Vec<String>),
    /// Sentences that may be the result, and how much each is preferred among successes; empty where the score decides.
    Candidates(Vec<Sentence>, Vec<f64>),
    /// Texts to have the gradients of.
    Gradients(Vec<String>),
}

impl Request {
    fn is_empty(&self) -> bool {
        match self {
            Self::Probe(texts) | Self::Gradients(texts) => texts.is_empty(),
            Self::Candidates(sentences, _) => sentences.is_empty(),
        }
    }
}

/// The exchange between one run and the engine.
#[derive(Default)]
pub(super) struct Exchange {
    pub request: Option<Request>,
    pub answer: Option<Answer>,
}

/// The engine's answer.
#[derive(Default)]
pub(super) struct Answer {
    pub replies: Vec<Reply>,
    pub gradients: Vec<TokenGradients>,
}

/// What a run asks the model through.
///
/// Every question waits for the engine, which answers the questions of many sentences in one batch. Texts that were asked about
/// before are answered from a cache and cost nothing.
#[derive(Clone)]
pub struct TextOracle(Arc<Mutex<Exchange>>);

impl TextOracle {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn exchange(&self) -> MutexGuard<'_, Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks about texts to learn from, which are no results even where they reach the goal: a query each.
    pub async fn probe(&self, texts: Vec<String>) -> Vec<Reply> {
        self.ask(Request::Probe(texts)).await.replies
    }

    /// Asks about sentences that may be the result: a query each. Where some of them reach the goal, the attack is over with the
    /// one of the highest score, the first of several.
    pub async fn candidates(&self, sentences: Vec<Sentence>) -> Vec<Reply> {
        self.ask(Request::Candidates(sentences, Vec::new())).await.replies
    }

    /// The same, where the most preferred of the successes is taken, and of several the one of the highest score.
    pub async fn preferred(&self, sentences: Vec<Sentence>, preferences: Vec<f64>) -> Vec<Reply> {
        self.ask(Request::Candidates(sentences, preferences)).await.replies
    }

    /// Asks for the gradients of the goal's score with respect to the vectors of the texts' tokens: a gradient each, and a query
    /// for a text that was not asked about before.
    pub async fn gradients(&self, texts: Vec<String>) -> Vec<TokenGradients> {
        self.ask(Request::Gradients(texts)).await.gradients
    }

    fn ask(&self, request: Request) -> Asked<'_> {
        Asked { oracle: self, request: Some(request) }
    }
}

/// Leaves the request and waits for its answer.
struct Asked<'a> {
    oracle: &'a TextOracle,
    request: Option<Request>,
}

impl Future for Asked<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Answer> {
        let request = self.request.take();
        let mut exchange = self.oracle.exchange();
        match request {
            Some(request) if request.is_empty() => Poll::Ready(Answer::default()),
            Some(request) => {
                exchange.request = Some(request);
                Poll::Pending
            }
            None => exchange.answer.take().map_or(Poll::Pending, Poll::Ready),
        }
    }
}
