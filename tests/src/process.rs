//! Child processes that die with the test process, whatever ends it.
//!
//! A child runs under a small shell that waits on a pipe held by us. When the pipe closes, because the
//! guard was dropped or because the test process was killed, the shell kills the child and removes its
//! folder. While the shell lives, the child's process id cannot be taken by another process.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Arguments: folder to remove or empty, file for the output, program, arguments.
/// Replies on its standard output: the child's process id.
const SUPERVISOR: &str = r#"
folder=$1; output=$2; shift 2
"$@" </dev/null >>"$output" 2>&1 &
child=$!
echo "$child"
if read -r word; then remove=; else remove=$folder; fi
kill -9 "$child" 2>/dev/null
wait "$child"
status=$?
if [ -n "$remove" ]; then rm -rf -- "$remove"; fi
exit "$status"
"#;

/// A child process under supervision. Dropping it kills the child and keeps its folder, which is the
/// owner's to remove; the folder is removed by the supervisor only if this process dies.
#[derive(Debug)]
pub struct Supervised {
    /// The shell.
    shell: Child,
    /// Closing it ends the child.
    pipe: Option<ChildStdin>,
    /// Process id of the child itself.
    pid: u32,
}

impl Supervised {
    /// Starts a program.
    ///
    /// # Errors
    /// When the shell cannot be started. A program that cannot be run shows in the output file.
    pub fn spawn<S: AsRef<OsStr>>(
        program: &Path,
        arguments: &[S],
        environment: &[(String, String)],
        output: &Path,
        folder: Option<&Path>,
    ) -> Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(folder.map_or_else(|| OsStr::new(""), Path::as_os_str))
            .arg(output)
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A terminal's interrupt must reach us only; we then end the child through the pipe.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let pipe = shell.stdin.take();
        let mut reply = String::new();
        let stdout = shell.stdout.take().context("the supervisor has no output")?;
        BufReader::new(stdout).read_line(&mut reply)?;
        let pid = reply.trim().parse().context("the supervisor gave no process id")?;
        Ok(Self { shell, pipe, pid })
    }

    /// Process id of the child.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the child still runs (a zombie does not).
    pub fn is_running(&self) -> bool {
        is_running(self.pid)
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`, …) to the child.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn signal(&self, name: &str) -> Result<()> {
        crate::mongod::run(Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()))
    }

    /// Kills the child at once (`SIGKILL`) and waits for its end; its folder stays.
    pub fn kill(mut self) -> ExitStatus {
        self.finish()
    }

    /// Waits until the child has ended by itself, then collects its exit status; `None` if it still
    /// runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(self.finish())
    }

    /// Ends child and shell. The shell passes the child's status on as a number, 128 + n for a signal.
    fn finish(&mut self) -> ExitStatus {
        if let Some(mut pipe) = self.pipe.take() {
            // The line says that the folder stays. A broken pipe means that the shell is gone already.
            drop(pipe.write_all(b"keep\n"));
        }
        let status = self.shell.wait().unwrap_or_else(|_| ExitStatus::from_raw(1 << 8));
        match status.code() {
            Some(code) if code > 128 => ExitStatus::from_raw(code - 128),
            _ => status,
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if self.pipe.is_some() {
            self.finish();
        }
    }
}

/// Whether a process exists and is not a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        // The state letter follows the command name, which stands in parentheses and may hold any byte.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    })
}

/// Peak resident memory of a running process in bytes.
pub fn peak_memory(pid: u32) -> Option<u64> {
    status_kib(pid, "VmHWM:").map(|kib| kib * 1024)
}

/// Resident memory of a running process in bytes, now.
pub fn resident_memory(pid: u32) -> Option<u64> {
    status_kib(pid, "VmRSS:").map(|kib| kib * 1024)
}

/// One number of `/proc/<pid>/status`.
fn status_kib(pid: u32, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
