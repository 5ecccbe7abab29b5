//! Walking folders and reading and writing files, with errors that name the file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Every file below a folder, sorted, `target` and hidden folders left out.
pub fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let describe = || format!("cannot read the folder {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(describe)? {
            let path = entry.with_context(describe)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !path.is_dir() {
                found.push(path);
            } else if name != "target" && !name.starts_with('.') {
                folders.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file whole or not at all: under a temporary name in the same folder, then renamed. Makes the folder.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    let describe = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(describe)?;
    }
    let mut temporary = path.as_os_str().to_os_string();
    temporary.push(".tmp");
    fs::write(&temporary, content).with_context(describe)?;
    fs::rename(&temporary, path).with_context(describe)
}

/// A folder of one test's own, removed when the value is dropped.
#[cfg(test)]
pub struct Scratch(pub PathBuf);

#[cfg(test)]
impl Scratch {
    /// A new, empty folder.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("crucible-xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the folder for temporary files is writable");
        Self(path)
    }
}

#[cfg(test)]
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_whole_files_and_walks_past_hidden_and_build_folders() -> Result<()> {
        let scratch = Scratch::new("files");
        for name in ["b.rs", "a/deep/c.rs", "target/no.rs", ".git/no.rs"] {
            write(&scratch.0.join(name), b"x")?;
        }
        let names: Vec<_> = below(&scratch.0)?.iter().map(|p| p.strip_prefix(&scratch.0).map(PathBuf::from)).collect();
        assert_eq!(names, [Ok("a/deep/c.rs".into()), Ok("b.rs".into())]);
        assert_eq!(read(&scratch.0.join("b.rs"))?, "x");
        let error = read(&scratch.0.join("none.rs")).expect_err("the file does not exist");
        assert!(error.to_string().contains("none.rs"));
        Ok(())
    }
}
