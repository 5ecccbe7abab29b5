//! Text files: read whole with errors that say where, written by a temporary name and a rename.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How the bytes of a file are letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// UTF-8; anything else is an error that names line and byte.
    #[default]
    Utf8,
    /// ISO-8859-1: every byte is the character of its number.
    Latin1,
}

/// The folder of data: the one that the variable `DATA_DIR` names, else `../shared/data`.
pub(crate) fn data_folder() -> PathBuf {
    let named = std::env::var_os("DATA_DIR").filter(|folder| !folder.is_empty());
    named.map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from)
}

/// The whole file as text.
pub(crate) fn read(path: &Path, encoding: Encoding) -> Result<String> {
    let bytes = fs::read(path).map_err(|error| wrong(path, error))?;
    match encoding {
        Encoding::Latin1 => Ok(bytes.into_iter().map(char::from).collect()),
        Encoding::Utf8 => String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let before = &error.as_bytes()[..at];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
            let byte = error.as_bytes()[at];
            wrong(path, format!("line {line}, byte {column} of it: 0x{byte:02x} is not UTF-8"))
        }),
    }
}

/// Replaces the file in one step: it is complete, or as it was.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        // What is left of a write that failed is of no use to anyone; the error is that of the write.
        let _ = fs::remove_file(&temporary);
        wrong(path, error)
    })
}

pub(crate) fn wrong(path: &Path, problem: impl ToString) -> Error {
    Error::Data { path: path.to_path_buf(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_letters_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, b"fine\nna\xefve\n").unwrap();
        let error = read(&path, Encoding::Utf8).unwrap_err().to_string();
        assert!(error.contains("a.txt") && error.contains("line 2, byte 3 of it: 0xef"), "{error}");
        assert_eq!(read(&path, Encoding::Latin1).unwrap(), "fine\nnaïve\n");
        let error = read(&folder.path().join("b.txt"), Encoding::Utf8).unwrap_err().to_string();
        assert!(error.contains("b.txt"), "{error}");
    }

    #[test]
    fn a_file_is_replaced_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("none/a.txt"), "three").is_err());
    }
}
