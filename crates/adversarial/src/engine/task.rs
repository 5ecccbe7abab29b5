//! Runs on their way, and the examples they belong to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::case::{Case, Run, Search};
use super::oracle::{Answer, Oracle, Request};
use super::outcome::{Outcome, Status};
use crate::attack::{Attack, Walk};

/// The best point so far.
#[derive(Clone, Debug)]
struct Best {
    point: Vec<f32>,
    logits: Vec<f32>,
    reached: bool,
    /// What is compared: the margin, the loss, or the distance with its sign changed.
    score: f64,
    /// Position of the run that gave it; none for the unperturbed input.
    order: Option<usize>,
    run: Run,
}

impl Best {
    /// A success is better than none, a higher score better than a lower one, an earlier run better than a later one.
    fn better_than(&self, other: &Self) -> bool {
        let rank = |best: &Self| (best.reached, best.score);
        match rank(self).partial_cmp(&rank(other)) {
            Some(std::cmp::Ordering::Greater) => true,
            Some(std::cmp::Ordering::Less) | None => false,
            Some(std::cmp::Ordering::Equal) => other.order.is_some() && self.order < other.order,
        }
    }
}

/// Evaluations spent.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    gradients: u64,
    queries: u64,
    zero: u64,
}

/// Why a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The attack has no more questions.
    Through,
    /// It has found what was looked for.
    Success,
    /// The model gave no numbers.
    NotFinite,
    /// The example's budget does not allow the next question.
    Budget,
}

/// One run of an attack on one example.
pub(super) struct Task<'a> {
    pub example: usize,
    pub case: Arc<Case>,
    pub request: Option<Request>,
    pub answers: Vec<Answer>,
    order: usize,
    oracle: Oracle,
    walk: Walk<'a>,
    best: Option<Best>,
    spent: Spent,
    end: Option<End>,
}

impl Task<'_> {
    /// How many points it asks about.
    pub fn rows(&self) -> usize {
        self.request.as_ref().map_or(0, |request| request.points.len() / self.case.x0.len())
    }

    /// Takes the answers in and goes on to the next question.
    pub fn advance(&mut self) {
        if self.end.is_some() {
            return;
        }
        if let Some(request) = self.request.take() {
            let answers = std::mem::take(&mut self.answers);
            self.take_in(&request, &answers);
            if self.end.is_some() {
                return;
            }
            self.oracle.exchange().answers = Some(answers);
        }
        match self.walk.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => self.end = Some(End::Through),
            Poll::Pending => self.request = self.oracle.exchange().request.take(),
        }
        debug_assert!(self.end.is_some() || self.request.is_some(), "an attack waits for nothing but its oracle");
    }

    fn take_in(&mut self, request: &Request, answers: &[Answer]) {
        let case = self.case.clone();
        for (point, answer) in request.points.chunks(case.x0.len()).zip(answers) {
            self.spent.queries += 1;
            if !answer.gradient.is_empty() {
                self.spent.gradients += 1;
                self.spent.zero += u64::from(answer.gradient.iter().all(|g| *g == 0.0));
            }
            if answer.logits.iter().any(|z| z.is_nan()) {
                self.end = Some(End::NotFinite);
                return;
            }
            let reached = answer.reached;
            let (eligible, score) = match case.search {
                Search::First => (true, f64::from(case.goal.margin(&answer.logits))),
                Search::Worst => (!request.losses.is_empty(), answer.loss),
                Search::Nearest => (reached, -case.distance(point)),
            };
            let reached = reached && case.search != Search::Worst;
            let better = |best: &Best| (reached, score) > (best.reached, best.score);
            if eligible && self.best.as_ref().is_none_or(better) && case.allows(point) {
                let (point, logits) = (point.to_vec(), answer.logits.clone());
                self.best = Some(Best { point, logits, reached, score, order: Some(self.order), run: case.run });
                match case.search {
                    Search::First if reached => {
                        self.end = Some(End::Success);
                        return;
                    }
                    Search::Nearest => self.oracle.exchange().nearest = Some(-score),
                    _ => {}
                }
            }
        }
    }
}

/// An example and what is known of it.
pub(super) struct Example {
    pub status: Option<Status>,
    case: Case,
    best: Best,
    spent: Spent,
    runs: VecDeque<Run>,
    begun: usize,
    going: usize,
}

/// What an example may spend.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    pub gradients: Option<u64>,
    pub queries: Option<u64>,
}

impl Example {
    /// An example whose clean logits are known.
    pub fn new(case: Case, attack: &dyn Attack) -> Self {
        let finite = case.logits.iter().all(|z| !z.is_nan());
        let reached = finite && case.goal.reached(&case.logits);
        let score = match case.search {
            Search::First => f64::from(case.goal.margin(&case.logits)),
            Search::Worst => f64::NEG_INFINITY,
            Search::Nearest => 0.0,
        };
        let best = Best {
            point: case.x0.to_vec(),
            logits: case.logits.to_vec(),
            reached: reached && case.search != Search::Worst,
            score: if finite { score } else { f64::NEG_INFINITY },
            order: None,
            run: Run::default(),
        };
        let status = match () {
            () if !finite => Some(Status::NotFinite),
            () if reached && case.search != Search::Worst => Some(Status::AlreadyReached),
            () if case.threat.epsilon() == 0.0 => Some(Status::Standing),
            () => None,
        };
        let runs = if status.is_none() { attack.runs(&case).into() } else { VecDeque::new() };
        let spent = Spent { queries: 1, ..Spent::default() };
        Self { status, case, best, spent, runs, begun: 0, going: 0 }
    }

    /// Its next runs, at most `siblings`, none of which has asked yet.
    pub fn begin<'a>(&mut self, index: usize, attack: &'a dyn Attack, siblings: usize) -> Vec<Task<'a>> {
        let mut tasks = Vec::new();
        while tasks.len() < siblings
            && let Some(run) = self.runs.pop_front()
        {
            let label = [run.restart as u64, run.target.map_or(u64::MAX, |target| target as u64)];
            let random = self.case.random.fork(label.map(u64::to_le_bytes).concat());
            let case = Case { run, random, ..self.case.clone() };
            let oracle = Oracle::new();
            tasks.push(Task {
                example: index,
                walk: attack.walk(case.clone(), oracle.clone()),
                case: Arc::new(case),
                request: None,
                answers: Vec::new(),
                order: self.begun,
                oracle,
                best: None,
                spent: Spent::default(),
                end: None,
            });
            self.begun += 1;
        }
        self.going = tasks.len();
        if tasks.is_empty() {
            self.status = Some(Status::Standing);
        }
        tasks
    }

    /// Takes a run's result in. Returns whether the example has to go on with other runs.
    fn end(&mut self, task: &mut Task<'_>, end: End) -> bool {
        self.going -= 1;
        if let Some(best) = task.best.take().filter(|best| best.better_than(&self.best)) {
            self.best = best;
        }
        let found = if self.best.reached { Status::Broken } else { Status::Standing };
        match end {
            End::NotFinite => self.status = Some(Status::NotFinite),
            End::Success => self.status = Some(Status::Broken),
            End::Budget if self.status.is_none() => self.status = Some(found),
            End::Through if self.going == 0 && self.runs.is_empty() && self.status.is_none() => {
                self.status = Some(found)
            }
            End::Budget | End::Through => {}
        }
        self.status.is_none() && self.going == 0
    }

    /// Whether the budget allows so many more.
    fn affords(&self, budget: Budget, gradients: u64, queries: u64) -> bool {
        budget.gradients.is_none_or(|most| self.spent.gradients + gradients <= most)
            && budget.queries.is_none_or(|most| self.spent.queries + queries <= most)
    }

    pub fn reached(&self) -> bool {
        matches!(self.status, Some(Status::AlreadyReached | Status::Broken))
    }

    pub fn gradients(&self) -> u64 {
        self.spent.gradients
    }

    /// The point to hand back and how the example came out.
    pub fn into_outcome(self) -> (Vec<f32>, Outcome) {
        let status = self.status.unwrap_or(Status::Unfinished);
        let Best { point, logits, score, run, .. } = self.best;
        let (point, logits) = match status {
            Status::NotFinite => (self.case.x0.to_vec(), self.case.logits.to_vec()),
            _ => (point, logits),
        };
        let loss = match self.case.search {
            Search::Worst => score,
            _ => f64::from(self.case.goal.margin(&logits)),
        };
        let outcome = Outcome {
            status,
            distance: self.case.distance(&point),
            logits,
            clean: self.case.logits.to_vec(),
            loss,
            gradients: self.spent.gradients,
            queries: self.spent.queries,
            zero_gradients: self.spent.zero,
            run,
        };
        (point, outcome)
    }
}

/// Books what the tasks have spent, ends what is over or over budget, cancels the siblings of what is done with, and gives the
/// tasks left. Examples with runs to go are put in front of the queue.
pub(super) fn retire<'a>(
    mut tasks: Vec<Task<'a>>,
    examples: &mut [Example],
    budget: Budget,
    queue: &mut VecDeque<usize>,
) -> Vec<Task<'a>> {
    for task in &mut tasks {
        let (example, spent) = (&mut examples[task.example], std::mem::take(&mut task.spent));
        example.spent.gradients += spent.gradients;
        example.spent.queries += spent.queries;
        example.spent.zero += spent.zero;
    }
    for task in &mut tasks {
        let example = &mut examples[task.example];
        let end = task.end.or_else(|| {
            let request = task.request.as_ref()?;
            let queries = (request.points.len() / task.case.x0.len()) as u64;
            let gradients = if request.gradient { queries } else { 0 };
            let affordable = example.affords(budget, gradients, queries);
            (!affordable).then_some(End::Budget)
        });
        if let Some(end) = end {
            task.end = Some(end);
            if example.end(task, end) {
                queue.push_front(task.example);
            }
        }
    }
    tasks.retain_mut(|task| task.end.is_none() && examples[task.example].status.is_none());
    tasks
}
