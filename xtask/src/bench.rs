//! `bench`: the bench program, on request against JAX, PyTorch, optax, Opacus, TorchJD, LibMTL, TorchOpt and betty in the same run.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::Missing;
use crate::files;
use crate::process::{build_program, root, run as execute, stream, succeeds, target_dir};

/// The peers' measurements, in the order they run.
const PEER_SCRIPTS: [&str; 8] = [
    "tests/peers/hvp.py",
    "tests/peers/tree.py",
    "tests/peers/clipping.py",
    "tests/peers/dp.py",
    "tests/peers/precision.py",
    "tests/peers/attacks.py",
    "tests/peers/multitask.py",
    "tests/peers/bilevel.py",
];
/// What they need, as `tests/peers/requirements.txt` pins it.
const IMPORTS: &str = "import importlib.util as i, betty, foolbox, jax, ml_dtypes, opacus, optax, quadprog, torch, torchattacks, torchjd, torchopt; \
     assert i.find_spec('LibMTL')";

/// Runs the bench program with `rest`; with `peers`, first theirs, whose results it is given as `--peers-file`.
pub fn run(peers: bool, threads: u16, rest: &[String]) -> Result<ExitCode> {
    let threads = threads.to_string();
    // Built before the peers run: a compiler at work beside them would slow them down.
    let mut bench = Command::new(build_program("bench")?);
    if peers {
        bench.arg("--peers-file").arg(measure_peers(&threads)?);
    }
    let mut status = execute(bench.args(rest).env("RAYON_NUM_THREADS", &threads))?;
    if status.success() && rest.is_empty() {
        status = execute(Command::new(build_program("memory")?).env("RAYON_NUM_THREADS", &threads))?;
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the peers and writes their JSON lines to a file.
fn measure_peers(threads: &str) -> Result<PathBuf> {
    let folder = target_dir().join("peers");
    let python = environment(&folder)?;
    let mut lines = String::new();
    for script in PEER_SCRIPTS {
        let mut command = Command::new(&python);
        command.current_dir(root()).args([script, "--threads", threads]).env("PYTHONDONTWRITEBYTECODE", "1");
        // Where a script leaves what the bench shall compute with.
        command.env("PEERS_FOLDER", &folder);
        let status = stream(&mut command, |line| lines += &format!("{line}\n"))?;
        if !status.success() {
            bail!("{script} failed ({status})");
        }
    }
    let file = folder.join("peers.jsonl");
    files::write(&file, lines.as_bytes())?;
    Ok(file)
}

/// The Python of a virtual environment with the peers, made on first use.
fn environment(folder: &Path) -> Result<PathBuf> {
    let python = folder.join(if cfg!(windows) { "venv/Scripts/python.exe" } else { "venv/bin/python" });
    let program = python.to_string_lossy().into_owned();
    if succeeds(&program, &["-c", IMPORTS]) {
        return Ok(python);
    }
    let system = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_string());
    if !succeeds(&system, &["-c", "import venv, ensurepip"]) {
        return Err(Missing(format!(
            "--peers needs Python 3 with its venv module, and {system} is not one\n  \
             Debian, Ubuntu: apt-get install python3-venv\n  another Python: set PYTHON to it"
        ))
        .into());
    }
    eprintln!(
        "Installing JAX, PyTorch, optax, Opacus, TorchJD, LibMTL, TorchOpt, betty and libraries of attacks in {}, once: on Linux a download of about 2.8 GB and 6 GB of disk, because \
         PyPI's PyTorch comes with its GPU libraries (pip's own settings can name an index with the CPU-only one).",
        folder.display()
    );
    let venv = folder.join("venv");
    let made = execute(Command::new(&system).args(["-m", "venv", "--clear"]).arg(&venv))?;
    let requirements = root().join("tests/peers/requirements.txt");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "-q", "-r"]).arg(requirements);
    if !made.success() || !execute(&mut pip)?.success() {
        bail!("cannot install the peers in {}", venv.display());
    }
    let status = execute(Command::new(&python).args(["-c", IMPORTS])).context("the new environment")?;
    if !status.success() {
        bail!("the environment in {} was made, but the peers do not start in it", venv.display());
    }
    Ok(python)
}
