//! A temporary folder and what runs in it, with a guard outside this process: whatever ends this process, the guard ends the
//! servers and removes the folder.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::machine::{Account, account, random_word};

/// Waits until its standard input closes, which the system does when the owner is gone, however it went. Then it ends the
/// processes whose ids stand in `pids`, gives them time, and removes the folder. A PostgreSQL that was killed cannot remove its
/// shared memory itself; line 7 of its `postmaster.pid` names it.
const GUARD: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
[ -d "$1" ] || exit 0
for pid in $(cat "$1/pids" 2>/dev/null); do kill -INT "$pid" 2>/dev/null; done
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  alive=
  for pid in $(cat "$1/pids" 2>/dev/null); do kill -0 "$pid" 2>/dev/null && alive=1; done
  [ -z "$alive" ] && break
  sleep 0.1
done
for pid in $(cat "$1/pids" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
for file in "$1"/*/postmaster.pid; do
  [ -f "$file" ] && shm=$(sed -n '7s/.* //p' "$file") && [ -n "$shm" ] && ipcrm -m "$shm" 2>/dev/null
done
cd / && rm -rf "$1"
"#;

/// A temporary folder with a guard.
pub struct Scratch {
    path: PathBuf,
    account: Option<Account>,
    guard: Mutex<Option<Child>>,
}

impl Scratch {
    /// Makes the folder, readable by its owner only, and starts its guard.
    pub fn new(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("{name}-{}", random_word()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let account = account(&path)?;
        if let Some(account) = account {
            chown(&path, Some(account.uid), Some(account.gid))?;
        }
        std::fs::write(path.join("pids"), "")?;
        std::fs::set_permissions(path.join("pids"), std::fs::Permissions::from_mode(0o644))?;
        let mut scratch = Self { path, account, guard: Mutex::new(None) };
        let mut guard = scratch.command(Path::new("sh"));
        guard.args(["-c", GUARD, "sh"]).arg(&scratch.path);
        guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        scratch.guard = Mutex::new(Some(guard.spawn()?));
        Ok(scratch)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs in the folder, under the unprivileged account, out of reach of the terminal's Ctrl-C.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.path).env("HOME", &self.path).process_group(0);
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Tells the guard of one more process to end.
    pub fn guard(&self, pid: u32) -> io::Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().append(true).open(self.path.join("pids"))?;
        writeln!(file, "{pid}")
    }

    /// Ends what still runs and removes the folder, now.
    pub fn remove(self) {
        self.end();
    }

    fn end(&self) {
        let Some(mut guard) = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        drop(guard.stdin.take());
        let _ = guard.wait();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.end();
    }
}
