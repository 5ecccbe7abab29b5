//! `backends`: the test suite on every backend of Burn that the crates support.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::Missing;
use crate::process::{Steps, WORKSPACE, cargo};
use crate::suite::{Totals, cargo_test};

/// A backend to test on.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Backend {
    /// The CPU, Burn's older backend
    Ndarray,
    /// The CPU, what runs when nobody chose
    Flex,
    /// The GPU, or a CPU that plays one (Mesa's lavapipe): smoke test at small shapes
    Wgpu,
}

impl Backend {
    /// The value of Burn's `BURN_DEVICE`. `webgpu` would pin the browser's own API, which no native program has.
    fn device(self) -> &'static str {
        match self {
            Self::Ndarray => "ndarray",
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
        }
    }

    fn tests(self) -> Command {
        let mut command = cargo();
        command.env("BURN_DEVICE", self.device()).args(["test", "--no-fail-fast"]);
        match self {
            // Alone: with wgpu among the features everything of Burn is built again, and the CPU backends are the longest part.
            Self::Wgpu => command
                .args(["--release", "-p", "crucible-tests", "--no-default-features", "--features", "wgpu"])
                .args(["--test", "backend_smoke"]),
            Self::Ndarray | Self::Flex => command.args(WORKSPACE),
        };
        command
    }
}

/// Runs the suite on the backends in `only`, on all when it is empty. The last line counts the tests of all of them.
pub fn run(only: &[Backend]) -> Result<ExitCode> {
    let wanted = |backend: &&Backend| only.is_empty() || only.contains(backend);
    let backends: Vec<Backend> = Backend::value_variants().iter().filter(wanted).copied().collect();
    if backends.contains(&Backend::Wgpu) && cfg!(target_os = "linux") {
        Vulkan::of_this_machine().require()?;
    }
    let runtime_dir = RuntimeDir::ensure()?;

    let mut steps = Steps::default();
    let mut totals = Totals::default();
    for backend in backends {
        steps.step(&format!("tests on {}", backend.device()), || {
            let mut command = backend.tests();
            if let Some(folder) = &runtime_dir {
                command.env("XDG_RUNTIME_DIR", &folder.0);
            }
            let counted = cargo_test(&mut command)?;
            println!("{}: {}", backend.device(), counted.closing_line());
            totals += counted;
            Ok(counted.green())
        });
    }
    print!("\n{}{}\n", steps.summary(), totals.closing_line());
    Ok(if steps.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where Vulkan's loader and drivers would be.
struct Vulkan {
    /// The loader's cache, as `ldconfig -p` prints it.
    libraries: String,
    /// Folders that may hold the loader without the cache knowing.
    library_folders: Vec<PathBuf>,
    /// Folders of driver manifests.
    driver_folders: Vec<PathBuf>,
    /// Driver manifests named by a variable, which replace the folders.
    driver_files: Option<Vec<PathBuf>>,
}

impl Vulkan {
    fn of_this_machine() -> Self {
        let listed = |name: &str| Some(paths(&std::env::var_os(name)?));
        let print = |program: &str| Command::new(program).arg("-p").output().ok();
        let libraries = print("ldconfig").or_else(|| print("/sbin/ldconfig"));
        let data_homes = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
        let data_homes = data_homes.or_else(|| Some(std::env::home_dir()?.join(".local/share")));
        let data = ["/usr/share", "/usr/local/share", "/etc"].map(PathBuf::from);
        Self {
            libraries: libraries.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default(),
            library_folders: listed("LD_LIBRARY_PATH").unwrap_or_default(),
            driver_folders: data.into_iter().chain(data_homes).map(|folder| folder.join("vulkan/icd.d")).collect(),
            driver_files: listed("VK_DRIVER_FILES").or_else(|| listed("VK_ICD_FILENAMES")),
        }
    }

    fn has_loader(&self) -> bool {
        const LOADER: &str = "libvulkan.so.1";
        self.libraries.contains(LOADER) || self.library_folders.iter().any(|folder| folder.join(LOADER).exists())
    }

    fn has_driver(&self) -> bool {
        let in_folder = |folder: &PathBuf| {
            fs::read_dir(folder).is_ok_and(|mut entries| {
                entries.any(|entry| entry.is_ok_and(|e| e.path().extension().is_some_and(|suffix| suffix == "json")))
            })
        };
        match &self.driver_files {
            Some(files) => files.iter().any(|file| file.is_file()),
            None => self.driver_folders.iter().any(in_folder),
        }
    }

    fn require(&self) -> Result<(), Missing> {
        let mut missing = Vec::new();
        if !self.has_loader() {
            missing.push("Vulkan's loader (libvulkan.so.1)");
        }
        if !self.has_driver() {
            missing.push(match self.driver_files {
                Some(_) => "a Vulkan driver (none of the files in VK_DRIVER_FILES or VK_ICD_FILENAMES exists)",
                None => "a Vulkan driver (no /usr/share/vulkan/icd.d/*.json)",
            });
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Missing(format!(
            "the wgpu backend needs {}\n  Debian, Ubuntu: apt-get install mesa-vulkan-drivers libvulkan1\n  \
             without it: cargo xtask backends --only ndarray --only flex",
            missing.join(" and ")
        )))
    }
}

fn paths(list: &OsString) -> Vec<PathBuf> {
    std::env::split_paths(list).filter(|path| path != Path::new("")).collect()
}

/// A private folder for `XDG_RUNTIME_DIR`, which Mesa's drivers want; removed when dropped.
struct RuntimeDir(PathBuf);

impl RuntimeDir {
    /// Makes one where the variable is not set.
    fn ensure() -> Result<Option<Self>> {
        if cfg!(not(unix)) || std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|folder| !folder.is_empty()) {
            return Ok(None);
        }
        let path = std::env::temp_dir().join(format!("crucible-runtime-{}", std::process::id()));
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Some(Self(path)))
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // A folder left behind among the temporary files does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Scratch, write};

    const LOADER: &str = "\tlibvulkan.so.1 (libc6,x86-64) => /usr/lib/libvulkan.so.1\n";

    fn machine(libraries: &str, driver_folder: &Path) -> Vulkan {
        Vulkan {
            libraries: libraries.to_string(),
            library_folders: Vec::new(),
            driver_folders: vec![driver_folder.to_path_buf()],
            driver_files: None,
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_to_get_it() -> Result<()> {
        let scratch = Scratch::new("vulkan");
        let message = |vulkan: Vulkan| vulkan.require().err().map(|missing| missing.0).unwrap_or_default();

        let bare = message(machine("", &scratch.0));
        assert!(bare.contains("libvulkan.so.1") && bare.contains("icd.d"), "{bare}");
        assert!(bare.contains("apt-get install mesa-vulkan-drivers libvulkan1"), "{bare}");
        let no_driver = message(machine(LOADER, &scratch.0.join("none")));
        assert!(!no_driver.contains("libvulkan.so.1") && no_driver.contains("icd.d"), "{no_driver}");

        write(&scratch.0.join("lvp_icd.x86_64.json"), b"{}")?;
        assert_eq!(message(machine(LOADER, &scratch.0)), "");
        Ok(())
    }

    #[test]
    fn a_variable_replaces_the_driver_folders() -> Result<()> {
        let scratch = Scratch::new("vulkan-variable");
        let manifest = scratch.0.join("driver.json");
        write(&manifest, b"{}")?;
        let with = |file: PathBuf| Vulkan { driver_files: Some(vec![file]), ..machine(LOADER, &scratch.0) };
        assert!(with(manifest).require().is_ok());
        let missing = with(scratch.0.join("gone.json")).require().err().map(|missing| missing.0).unwrap_or_default();
        assert!(missing.contains("VK_DRIVER_FILES"), "{missing}");
        Ok(())
    }

    #[test]
    fn every_backend_is_chosen_by_burn_device() {
        for backend in Backend::value_variants() {
            let command = backend.tests();
            let set = command
                .get_envs()
                .any(|(key, value)| key == "BURN_DEVICE" && value.is_some_and(|value| value == backend.device()));
            assert!(set, "{backend:?}");
        }
    }
}
