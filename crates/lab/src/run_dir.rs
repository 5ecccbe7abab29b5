//! The folder of a run: what is in it, and how it stays whole when a run stops at any moment.
//!
//! ```text
//! RUN/recipe.toml             the recipe as run
//! RUN/metrics.jsonl           a record a line, see the module `metrics`
//! RUN/checkpoint/step-N/      model.bpk (and average.bpk), optimizer.bpk (with the transforms), techniques.bpk, random.bpk, state.json
//! RUN/best/                   the same of the epoch with the best metric, where it is kept
//! RUN/report.html             written when the run ends
//! ```
//! The folder, each checkpoint and each file that is replaced come into being under another name beside their place and are
//! renamed into it when complete. `metrics.jsonl` grows by appending; a checkpoint holds its length, and resuming cuts it there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metrics::{Metrics, Record};

const RECIPE: &str = "recipe.toml";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoint";
const BEST: &str = "best";
const STATE: &str = "state.json";
const REPORT: &str = "report.html";

/// Where in a run a checkpoint was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Epochs finished.
    pub epochs: u64,
    /// Steps done of the epoch after those.
    pub steps_in_epoch: u64,
    /// Steps done of the whole run.
    pub steps: u64,
    /// Seconds of work so far.
    pub seconds: f64,
    /// Length of `metrics.jsonl` at this moment.
    pub metrics_bytes: u64,
    /// Checksum of the data set.
    pub data: u32,
    /// The best epoch so far, where a metric is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// Why the run has nothing left to do, if it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,
}

/// The epoch with the best metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// From 1.
    pub epoch: u64,
    /// The metric then.
    pub value: f64,
}

impl Position {
    /// Before the first step, with data of this checksum.
    pub fn start(data: u32) -> Self {
        Self { epochs: 0, steps_in_epoch: 0, steps: 0, seconds: 0.0, metrics_bytes: 0, data, best: None, done: None }
    }
}

/// A run folder open for writing.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    metrics: BufWriter<File>,
    metrics_bytes: u64,
}

impl RunDir {
    /// A new run folder at `path`, with this recipe and the first checkpoint that `fill` writes into the folder it is given.
    ///
    /// # Errors
    /// [`Error::Run`] where `path` is there already and not an empty folder, [`Error::Write`], and those of `fill`; then
    /// nothing is left behind.
    pub fn create(path: &Path, recipe: &str, fill: impl FnOnce(&Path) -> Result<Position>) -> Result<Self> {
        let new = NewFolder::begin(path, "choose another --out, or go on with it by --resume")?;
        new.write(RECIPE, recipe)?;
        new.write(METRICS, "")?;
        write_checkpoint(new.stage(), fill)?;
        new.finish()?;
        Self::at(path, 0)
    }

    /// The last checkpoint of the run folder at `path`: its folder and position. Nothing is changed.
    ///
    /// # Errors
    /// [`Error::Run`] where it is no run folder or one that is damaged, [`Error::Read`].
    pub fn inspect(path: &Path) -> Result<(PathBuf, Position)> {
        if !path.join(RECIPE).is_file() {
            return Err(Error::run(path, format!("is no run folder: it has no {RECIPE}")));
        }
        let checkpoint = last_checkpoint(path)?;
        let file = checkpoint.join(STATE);
        let text = fs::read(&file).map_err(Error::read(&file))?;
        let position: Position =
            serde_json::from_slice(&text).map_err(|error| Error::run(&file, format!("is damaged: {error}")))?;
        let file = path.join(METRICS);
        let (length, expected) = (fs::metadata(&file).map_err(Error::read(&file))?.len(), position.metrics_bytes);
        if length < expected {
            let problem = format!("is damaged: {length} bytes, the checkpoint was taken at {expected}");
            return Err(Error::run(&file, problem));
        }
        Ok((checkpoint, position))
    }

    /// Opens the run folder at `path` to go on from a position of its last checkpoint: later metrics are cut off.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn open(path: &Path, position: &Position) -> Result<Self> {
        Self::at(path, position.metrics_bytes)
    }

    /// The recipe file of the run folder at `path`.
    pub fn recipe_file(path: &Path) -> PathBuf {
        path.join(RECIPE)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the last checkpoint.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Run`] where there is none.
    pub fn last_checkpoint(&self) -> Result<PathBuf> {
        last_checkpoint(&self.path)
    }

    /// Appends a record to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn record(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record).expect("records are plain data");
        line.push(b'\n');
        self.metrics_bytes += line.len() as u64;
        self.metrics.write_all(&line).map_err(Error::write(&self.path.join(METRICS)))
    }

    /// Length of `metrics.jsonl` so far.
    pub fn metrics_bytes(&self) -> u64 {
        self.metrics_bytes
    }

    /// Everything recorded so far.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Read`], [`Error::Run`] where a line is damaged.
    pub fn metrics(&mut self) -> Result<Metrics> {
        let path = self.path.join(METRICS);
        self.metrics.flush().map_err(Error::write(&path))?;
        let mut metrics = Metrics::default();
        let file = BufReader::new(File::open(&path).map_err(Error::read(&path))?);
        for (index, line) in file.lines().enumerate() {
            let line = line.map_err(Error::read(&path))?;
            metrics.push(
                serde_json::from_str(&line)
                    .map_err(|error| Error::run(&path, format!("line {}: is damaged: {error}", index + 1)))?,
            );
        }
        Ok(metrics)
    }

    /// Takes a checkpoint that `fill` writes into the folder it is given, and drops the one before.
    ///
    /// # Errors
    /// [`Error::Write`] and those of `fill`; then the checkpoint before is still there.
    pub fn checkpoint(&mut self, fill: impl FnOnce(&Path) -> Result<Position>) -> Result<()> {
        let path = self.path.join(METRICS);
        self.metrics.flush().and_then(|()| self.metrics.get_ref().sync_data()).map_err(Error::write(&path))?;
        write_checkpoint(&self.path, fill)
    }

    /// Keeps what `fill` writes as the best checkpoint, in place of the one before.
    ///
    /// # Errors
    /// [`Error::Write`] and those of `fill`; then the one before is still there.
    pub fn keep_best(&self, fill: impl FnOnce(&Path) -> Result<Position>) -> Result<()> {
        let stage = Stage::new(self.path.join(format!(".{BEST}.{}", process::id())))?;
        fill_checkpoint(&stage.0, fill)?;
        let place = self.path.join(BEST);
        if place.exists() {
            fs::remove_dir_all(&place).map_err(Error::write(&place))?;
        }
        fs::rename(&stage.0, &place).map_err(Error::write(&place))
    }

    /// Replaces the recipe.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn replace_recipe(&self, recipe: &str) -> Result<()> {
        replace(&self.path.join(RECIPE), recipe.as_bytes())
    }

    /// Writes the report.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_report(&self, html: &str) -> Result<()> {
        replace(&self.path.join(REPORT), html.as_bytes())
    }

    fn at(path: &Path, metrics_bytes: u64) -> Result<Self> {
        let file_path = path.join(METRICS);
        let mut file = OpenOptions::new().write(true).open(&file_path).map_err(Error::write(&file_path))?;
        file.set_len(metrics_bytes).and_then(|()| file.seek(SeekFrom::End(0))).map_err(Error::write(&file_path))?;
        Ok(Self { path: path.to_owned(), metrics: BufWriter::new(file), metrics_bytes })
    }
}

/// A name for a run that starts now, such as `20261123-203144` (UTC), that is not taken in `parent`.
pub fn fresh_name(parent: &Path) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let name = timestamp(seconds);
    let first = parent.join(&name);
    let others = (2..).map(|number| parent.join(format!("{name}-{number}")));
    std::iter::once(first).chain(others).find(|path| !path.exists()).expect("some number is free")
}

/// A folder in the making: under another name beside its place until it is whole, gone if dropped before.
#[derive(Debug)]
pub struct NewFolder {
    path: PathBuf,
    stage: Stage,
    taken: String,
}

impl NewFolder {
    /// Begins the folder at `path`, whose parents are made. `remedy` says what to do where it is there already.
    ///
    /// # Errors
    /// [`Error::Run`] where `path` is there already and not an empty folder, [`Error::Write`].
    pub fn begin(path: &Path, remedy: &str) -> Result<Self> {
        let taken = format!("exists already; {remedy}");
        if path.exists() && (!path.is_dir() || fs::read_dir(path).map_err(Error::read(path))?.next().is_some()) {
            return Err(Error::run(path, taken));
        }
        let name = path.file_name().ok_or_else(|| Error::run(path, "is no name for a new folder"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(Error::write(path))?;
        let stage = Stage::new(parent.join(format!(".{}.{}", name.to_string_lossy(), process::id())))?;
        Ok(Self { path: path.to_owned(), stage, taken })
    }

    /// Where it is for now.
    pub fn stage(&self) -> &Path {
        &self.stage.0
    }

    /// Writes a file into it.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        fs::write(self.stage.0.join(name), content).map_err(Error::write(&self.path))
    }

    /// Moves it to its place.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Run`] where something has come into its place meanwhile.
    pub fn finish(self) -> Result<()> {
        if self.path.exists() {
            fs::remove_dir(&self.path).map_err(|_| Error::run(&self.path, &self.taken))?;
        }
        fs::rename(&self.stage.0, &self.path).map_err(Error::write(&self.path))
    }
}

/// A folder under a temporary name, removed when dropped (which fails, as it should, once it has been renamed).
#[derive(Debug)]
struct Stage(PathBuf);

impl Stage {
    fn new(path: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&path); // of a process with this number that was killed
        fs::create_dir(&path).map_err(Error::write(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_checkpoint(run: &Path, fill: impl FnOnce(&Path) -> Result<Position>) -> Result<()> {
    let parent = run.join(CHECKPOINTS);
    fs::create_dir_all(&parent).map_err(Error::write(&parent))?;
    let stage = Stage::new(parent.join(format!(".new.{}", process::id())))?;
    let position = fill_checkpoint(&stage.0, fill)?;
    let place = parent.join(format!("step-{:08}", position.steps));
    if place.exists() {
        // The same step once more: it was taken before, and its content is the same.
        return Ok(());
    }
    fs::rename(&stage.0, &place).map_err(Error::write(&place))?;
    for old in checkpoints(&parent).map_err(Error::read(&parent))? {
        if old != place {
            fs::remove_dir_all(&old).map_err(Error::write(&old))?;
        }
    }
    Ok(())
}

/// Writes a checkpoint with its position into a folder, down to the disk.
fn fill_checkpoint(dir: &Path, fill: impl FnOnce(&Path) -> Result<Position>) -> Result<Position> {
    let position = fill(dir)?;
    let state = serde_json::to_vec_pretty(&position).expect("a position is plain data");
    fs::write(dir.join(STATE), state).map_err(Error::write(dir))?;
    for entry in fs::read_dir(dir).map_err(Error::read(dir))? {
        let path = entry.map_err(Error::read(dir))?.path();
        File::open(&path).and_then(|file| file.sync_all()).map_err(Error::write(&path))?;
    }
    Ok(position)
}

fn checkpoints(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("step-") {
            found.push(entry.path());
        }
    }
    // By step: names of more than eight digits are longer.
    found.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    Ok(found)
}

fn last_checkpoint(run: &Path) -> Result<PathBuf> {
    let parent = run.join(CHECKPOINTS);
    let found = checkpoints(&parent).map_err(Error::read(&parent))?;
    found.into_iter().next_back().ok_or_else(|| Error::run(&parent, "holds no checkpoint"))
}

fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().expect("a file in the run folder").to_owned();
    name.push(format!(".{}", process::id()));
    let new = path.with_file_name(name);
    let result = fs::write(&new, content).and_then(|()| fs::rename(&new, path)).map_err(Error::write(path));
    if result.is_err() {
        let _ = fs::remove_file(&new);
    }
    result
}

/// `YYYYMMDD-HHMMSS` of a time in seconds since 1970, UTC; the days by the civil calendar's 400-year cycle of 146,097 days.
fn timestamp(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468; // days since 1 March of year 0
    let (cycle, day_of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Spectrum;

    fn position(steps: u64, metrics_bytes: u64) -> Position {
        Position { steps_in_epoch: steps, steps, seconds: 0.1, metrics_bytes, ..Position::start(7) }
    }

    fn fill(steps: u64, metrics_bytes: u64) -> impl FnOnce(&Path) -> Result<Position> {
        move |dir| {
            fs::write(dir.join("model"), steps.to_string()).map_err(Error::write(dir))?;
            Ok(position(steps, metrics_bytes))
        }
    }

    fn a_record(epoch: u64) -> Record {
        Record::Spectrum(Spectrum {
            epoch,
            step: 0,
            examples: 1,
            products: 1,
            eigenvalues: vec![0.5],
            residuals: vec![0.0],
        })
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn resuming_cuts_the_metrics_back_to_the_last_checkpoint() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let mut run = RunDir::create(&path, "x = 1", fill(0, 0)).unwrap();
        run.record(&a_record(1)).unwrap();
        let bytes = run.metrics_bytes();
        run.checkpoint(fill(123_456_789, bytes)).unwrap();
        run.record(&a_record(2)).unwrap();
        assert_eq!(run.metrics().unwrap().spectra.len(), 2);
        drop(run);

        let (checkpoint, at) = RunDir::inspect(&path).unwrap();
        let mut run = RunDir::open(&path, &at).unwrap();
        assert_eq!(at, position(123_456_789, bytes));
        assert_eq!(fs::read_to_string(checkpoint.join("model")).unwrap(), "123456789");
        run.record(&a_record(3)).unwrap();
        let epochs: Vec<u64> = run.metrics().unwrap().spectra.iter().map(|spectrum| spectrum.epoch).collect();
        assert_eq!(epochs, [1, 3]);
        assert_eq!(names(root.path().join("a").as_path()), ["b"]);
        assert_eq!(names(&path.join(CHECKPOINTS)), ["step-123456789"]);
    }

    #[test]
    fn a_failed_checkpoint_leaves_the_one_before() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run");
        let mut run = RunDir::create(&path, "", fill(0, 0)).unwrap();
        let failing = |dir: &Path| {
            fs::write(dir.join("model"), "half").map_err(Error::write(dir))?;
            Err(Error::run(dir, "full"))
        };
        assert!(run.checkpoint(failing).is_err());
        assert_eq!(names(&path.join(CHECKPOINTS)), ["step-00000000"]);
        run.checkpoint(fill(5, 0)).unwrap();
        assert_eq!(names(&path.join(CHECKPOINTS)), ["step-00000005"]);
    }

    #[test]
    fn the_best_is_kept_beside_the_last() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run");
        let mut run = RunDir::create(&path, "", fill(0, 0)).unwrap();
        run.keep_best(fill(3, 0)).unwrap();
        run.checkpoint(fill(5, 0)).unwrap();
        assert!(run.keep_best(|dir| Err(Error::run(dir, "full"))).is_err());
        assert_eq!(fs::read_to_string(path.join("best/model")).unwrap(), "3");
        run.keep_best(fill(7, 0)).unwrap();
        assert_eq!(fs::read_to_string(path.join("best/model")).unwrap(), "7");
        assert_eq!(names(&path), ["best", "checkpoint", "metrics.jsonl", "recipe.toml"]);
        assert_eq!(RunDir::inspect(&path).unwrap().1.steps, 5);
    }

    #[test]
    fn a_folder_that_cannot_be_made_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let message = RunDir::create(&file.join("run"), "", fill(0, 0)).unwrap_err().to_string();
        assert!(message.contains("file/run: cannot be written: "), "{message}");
        let path = root.path().join("run");
        assert!(RunDir::create(&path, "", |dir| Err(Error::run(dir, "no"))).is_err());
        assert_eq!(names(root.path()), ["file"]);
        let message = RunDir::create(root.path(), "", fill(0, 0)).unwrap_err().to_string();
        assert!(message.contains("exists already"), "{message}");
        fs::create_dir(&path).unwrap();
        RunDir::create(&path, "", fill(0, 0)).unwrap();
    }

    #[test]
    fn what_is_no_run_folder_or_damaged_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = |path: &Path| RunDir::inspect(path).unwrap_err().to_string();
        assert!(error(root.path()).ends_with("is no run folder: it has no recipe.toml"));
        let path = root.path().join("run");
        RunDir::create(&path, "", fill(0, 9)).unwrap();
        assert!(error(&path).ends_with("metrics.jsonl: is damaged: 0 bytes, the checkpoint was taken at 9"));
        fs::write(path.join("checkpoint/step-00000000/state.json"), "{").unwrap();
        assert!(error(&path).contains("state.json: is damaged: "));
        fs::remove_dir_all(path.join("checkpoint/step-00000000")).unwrap();
        assert!(error(&path).ends_with("checkpoint: holds no checkpoint"));
    }

    #[test]
    fn timestamps_follow_the_calendar() {
        assert_eq!(timestamp(0), "19700101-000000");
        assert_eq!(timestamp(951_782_399), "20000228-235959");
        assert_eq!(timestamp(951_868_800), "20000301-000000");
        assert_eq!(timestamp(1_795_465_904), "20261123-203144");
        assert_eq!(timestamp(4_107_542_400), "21000301-000000");
    }
}
