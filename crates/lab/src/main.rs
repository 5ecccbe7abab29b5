//! The `lab` program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    lab::cli::main(std::env::args_os())
}
