//! The command line.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::attack::{self, image::ImageArgs, text::TextArgs};
use crate::error::{Error, Result};
use crate::recipe::{DataName, DataRecipe, Override, Recipe, one_line};
use crate::run_dir;
use crate::study::{self, Study};
use crate::summary::{self, Ending};
use crate::train::{self, Event};

/// Exit status after bad input.
const BAD_INPUT: u8 = 2;
/// Exit status after a run that diverged.
const DIVERGED: u8 = 1;
/// Exit status after an interruption, as shells have it.
const INTERRUPTED: u8 = 130;

/// Trains models with Crucible's techniques and writes a run folder with a report.
///
/// Without a command it is `lab train`. The variable BURN_DEVICE chooses among the compute backends that were compiled in
/// (flex, ndarray; wgpu and cuda as features).
#[derive(Debug, Parser)]
#[command(name = "lab", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains a classifier: by default a small CNN on the embedded UCI digits, in seconds.
    Train(Box<TrainArgs>),
    /// Runs the experiments of a technique's questions and reports on them, in about a minute.
    Study(StudyArgs),
    /// Attacks an example of your own and shows what the model reads before and after.
    #[command(subcommand)]
    Attack(AttackCommand),
}

#[derive(Debug, Subcommand)]
enum AttackCommand {
    /// A picture, or an embedded digit.
    Image(Box<ImageArgs>),
    /// A sentence about a film.
    Text(Box<TextArgs>),
}

#[derive(Args, Debug)]
struct StudyArgs {
    /// What to study.
    #[arg(value_name = "NAME")]
    name: StudyName,
    /// Images of the study of multi-task learning.
    #[arg(long, value_name = "NAME", default_value = "digits")]
    data: StudyData,
    /// Folder of MNIST's IDX files.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Folder to make [default: runs/<time>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of all randomness.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StudyName {
    /// Can clipping overcome exploding gradients? When does it beat gradient descent?
    Clipping,
    /// Can training in low precision converge? What does Q cost? How to design it? What of momentum and Adam?
    Precision,
    /// How are adversarial examples constructed? What does min-max training hold? What can be proven?
    Adversarial,
    /// How to solve min over u, {vᵢ} of (1/M) Σ f(u, vᵢ)? Does a method beat a tuned weighted sum? One body or many?
    Multitask,
    /// Can rates, starts, example weights, weight decays and architectures be learned? What does a hypergradient cost?
    Meta,
    /// Can stickers make a speed limit of a stop sign? A T-shirt hide who wears it? A sentence or a caption be turned round?
    Examples,
    /// Every study, in one report.
    All,
}

impl StudyName {
    fn studies(self) -> &'static [Study] {
        match self {
            Self::Clipping => &[Study::Clipping],
            Self::Precision => &[Study::Precision],
            Self::Adversarial => &[Study::Adversarial],
            Self::Multitask => &[Study::Multitask],
            Self::Meta => &[Study::Meta],
            Self::Examples => &[Study::Examples],
            Self::All => Study::ALL,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StudyData {
    /// The embedded UCI digits, 8 × 8 pixels.
    Digits,
    /// MNIST, 28 × 28 pixels; takes longer.
    Mnist,
}

impl StudyArgs {
    /// The images chosen.
    ///
    /// # Errors
    /// [`Error::Value`] where nothing would be done with them.
    fn data(&self) -> Result<DataRecipe> {
        let wrong = |origin: &str, field: &str, value: &str, expected: &str| {
            let [origin, field, value, expected] = [origin, field, value, expected].map(str::to_owned);
            Err(Error::Value { origin, field, value, expected })
        };
        let takes = self.name.studies().iter().any(|study| study.takes_data());
        match (self.data, &self.data_dir) {
            (StudyData::Digits, None) => Ok(DataRecipe::default()),
            (StudyData::Digits, Some(dir)) => wrong("--data-dir", "data.dir", dir, "--data mnist beside it"),
            (StudyData::Mnist, _) if !takes => {
                wrong("--data", "data.name", "mnist", "digits; other images are for multitask and all")
            }
            (StudyData::Mnist, dir) => {
                let dir = dir.clone().unwrap_or_default();
                Ok(DataRecipe { name: DataName::Mnist, dir, ..DataRecipe::default() })
            }
        }
    }
}

#[derive(Args, Debug, Default)]
struct TrainArgs {
    /// Recipe to start from; see --print-config.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints the recipe with every setting, its meaning and range, and does nothing else.
    #[arg(long)]
    print_config: bool,
    /// Run folder to make [default: runs/<time>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run folder to continue; then only --epochs and --data-dir may be given.
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["config", "print_config", "out", "data", "model", "batch_size", "lr", "optimizer", "seed"]
    )]
    resume: Option<PathBuf>,
    /// digits (embedded), mnist, or your own images: idx, csv, png.
    #[arg(long, value_name = "NAME")]
    data: Option<String>,
    /// Folder of the files.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// cnn or mlp.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Passes over the training set.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    epochs: Option<String>,
    /// Examples a step.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    batch_size: Option<String>,
    /// Learning rate.
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    lr: Option<String>,
    /// adamw, adam or sgd.
    #[arg(long, value_name = "NAME")]
    optimizer: Option<String>,
    /// Seed of the initial weights and of the order of the examples.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    seed: Option<String>,
}

/// Runs the program with these arguments, the first being its name, and returns its exit status: 0, 1 after a run that
/// diverged or a computation that failed, 2 after bad input, 130 after an interruption.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.to_string();
            let problem = text.split("\n\n").next().unwrap_or_default();
            eprintln!("{} (see lab --help)", one_line(problem));
            return BAD_INPUT.into();
        }
    };
    let done = match &cli.command {
        Some(Command::Train(arguments)) => run(arguments),
        Some(Command::Study(arguments)) => run_study(arguments),
        Some(Command::Attack(AttackCommand::Image(arguments))) => attack_image(arguments),
        Some(Command::Attack(AttackCommand::Text(arguments))) => attack_text(arguments),
        None => run(&cli.train),
    };
    match done {
        Ok(status) => status.into(),
        Err(Error::Interrupted) => {
            eprintln!("{}", Error::Interrupted);
            INTERRUPTED.into()
        }
        Err(error) => {
            eprintln!("error: {}", error.to_string().replace('\n', " "));
            error.exit_code().into()
        }
    }
}

fn run(arguments: &TrainArgs) -> Result<u8> {
    let overrides = arguments.overrides();
    let mut console = Console::new();
    let stop = stop_on_interrupt("an interruption will not save a checkpoint");
    let mut observe = |event: Event<'_>| console.show(event);
    let run = if let Some(folder) = &arguments.resume {
        train::resume(folder, &overrides, &stop, &mut observe)?
    } else {
        let recipe = Recipe::load(arguments.config.as_deref(), &overrides)?;
        if arguments.print_config {
            print(&recipe.to_toml());
            return Ok(0);
        }
        let folder = arguments.out.clone().unwrap_or_else(|| run_dir::fresh_name(Path::new("runs")));
        train::start(&recipe, &folder, &stop, &mut observe)?
    };
    console.bar.finish_and_clear();

    let folder = run.folder.display();
    print(&format!(
        "\n{}\n\n{}\n  report   {folder}/report.html\n  records  {}\n  resume   {}\n",
        summary::headline(&run.recipe, &run.facts),
        summary::table(&summary::rows(&run.facts, &run.metrics, &run.ending)),
        run.checkpoint.display(),
        run.resume_command
    ));
    Ok(match run.ending {
        Ending::Finished | Ending::StoppedEarly { .. } | Ending::BudgetSpent => 0,
        Ending::Interrupted => {
            eprintln!("interrupted: nothing is lost, go on with {}", run.resume_command);
            INTERRUPTED
        }
        Ending::Diverged { step, what } => {
            eprintln!(
                "diverged: {what} was not finite at step {step}; {} is from before (a smaller optimizer.lr may help)",
                run.checkpoint.display()
            );
            DIVERGED
        }
    })
}

fn run_study(arguments: &StudyArgs) -> Result<u8> {
    let data = arguments.data()?;
    let folder = arguments.out.clone().unwrap_or_else(|| run_dir::fresh_name(Path::new("runs")));
    let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {elapsed}, {eta} left  {msg}");
    let bar = ProgressBar::new(0).with_style(style.expect("a valid template"));
    let stop = stop_on_interrupt("nothing will be cleaned up at an interruption");
    let observe = |event: study::Event<'_>| match event {
        study::Event::Begin(units) => {
            bar.set_length(units);
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        study::Event::Unit => bar.inc(1),
        study::Event::Experiment { title, seconds } => {
            if bar.is_hidden() {
                eprintln!("{title}  ({seconds:.1} s)");
            }
            bar.set_message(title.to_owned());
        }
    };
    let outcome = study::run(arguments.name.studies(), &data, arguments.seed, &folder, &stop, &observe);
    bar.finish_and_clear();
    let outcome = outcome?;
    let answers = outcome.answers.iter().map(|(question, answer)| format!("\n{question}\n  {answer}\n"));
    print(&format!(
        "\n{}\n\n{}\n  report   {2}/report.html\n  numbers  {2}/results.json\n",
        outcome.headline,
        summary::table(&outcome.rows) + &answers.collect::<String>(),
        outcome.folder.display()
    ));
    Ok(0)
}

fn attack_image(arguments: &ImageArgs) -> Result<u8> {
    let folder = arguments.out.clone().unwrap_or_else(|| run_dir::fresh_name(Path::new("runs")));
    let report = attack::image::run(arguments, &folder)?;
    let folder = report.folder.display();
    print(&format!("\n{}\n  pictures {folder}/before.png, after.png, difference.png\n", report.text));
    Ok(0)
}

fn attack_text(arguments: &TextArgs) -> Result<u8> {
    print(&format!("\n{}\n", attack::text::run(arguments)?));
    Ok(0)
}

impl TrainArgs {
    fn overrides(&self) -> Vec<Override> {
        [
            ("--data", "data.name", &self.data),
            ("--data-dir", "data.dir", &self.data_dir),
            ("--model", "model.name", &self.model),
            ("--epochs", "train.epochs", &self.epochs),
            ("--batch-size", "train.batch_size", &self.batch_size),
            ("--seed", "train.seed", &self.seed),
            ("--optimizer", "optimizer.name", &self.optimizer),
            ("--lr", "optimizer.lr", &self.lr),
        ]
        .into_iter()
        .filter_map(|(flag, field, value)| Some(Override { flag, field, value: value.clone()? }))
        .collect()
    }
}

/// What is shown while a run is going on: a bar on a terminal, a line an epoch elsewhere.
struct Console {
    bar: ProgressBar,
    epochs: u64,
}

impl Console {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} steps  {elapsed}, {eta} left  {msg}")
            .expect("a valid template");
        Self { bar: ProgressBar::new(0).with_style(style), epochs: 0 }
    }

    fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Begin { steps_done, steps, epochs } => {
                self.epochs = epochs;
                self.bar.set_length(steps);
                self.bar.set_position(steps_done);
                self.bar.reset_eta();
                self.bar.enable_steady_tick(Duration::from_millis(200));
            }
            Event::Step(step) => self.bar.set_position(step),
            Event::Epoch(epoch) => {
                let line = format!(
                    "epoch {}/{}  test loss {:.4}, accuracy {:.2} %",
                    epoch.epoch,
                    self.epochs,
                    epoch.test_loss,
                    100.0 * epoch.test_accuracy
                );
                if self.bar.is_hidden() {
                    eprintln!("{line}  ({:.1} s)", epoch.seconds);
                }
                self.bar.set_message(line);
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A flag that the first interruption sets; the second ends the program at once.
fn stop_on_interrupt(without: &str) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let handlers = flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)));
        if let Err(error) = handlers {
            eprintln!("note: {without}: {error}");
        }
    }
    stop
}

/// Writes to standard output; whoever closed it wants no more.
fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
