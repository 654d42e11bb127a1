//! Why the program ends without success.

use std::io::Write;
use std::process::ExitCode;

use lowrank::Error;

/// A result of this program's own functions.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// A sentence for the user, and the exit code.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

/// The work failed.
const FAILED: u8 = 1;
/// The user asked for something wrong.
pub const USAGE: u8 = 2;
/// What a shell reports for a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

impl Failure {
    /// The user asked for something wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: USAGE }
    }

    /// The work failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: FAILED }
    }

    /// The user stopped the program.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: INTERRUPTED }
    }

    /// Writes the sentence, on one line whatever is in it, and gives the exit code.
    pub fn report(self) -> ExitCode {
        let message = self.message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        // There is nobody left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "error: {message}");
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Interrupted { .. } | Error::DownloadStopped { .. } => INTERRUPTED,
            _ if error.is_usage() => USAGE,
            _ => FAILED,
        };
        Self { message: error.to_string(), code }
    }
}
