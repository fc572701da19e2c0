//! Sandboxes made by the real tools, with a real PostgreSQL and hostile programs inside.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat::sandbox::{Kind, Layout, Sandbox, SandboxError, Signal, Spawn, Status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const AGENT: &str = env!("CARGO_BIN_EXE_lifeboat");
const POSTGRES: &str = "/usr/lib/postgresql/15/bin";
const KINDS: [Kind; 2] = [Kind::Bubblewrap, Kind::Namespaces];

fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("sandbox-test-").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

fn layout(folder: &Path) -> Layout {
    Layout { agent: AGENT.into(), ..Layout::new(&folder.join("box")).unwrap() }
}

async fn start(folder: &Path, kind: &Kind) -> Sandbox {
    Sandbox::start(layout(folder), kind.clone()).await.unwrap()
}

fn shell(script: &str) -> Spawn {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Spawn { argv, env: Vec::new(), cwd: None, log: "log".into() }
}

/// Runs a script inside and gives what it wrote.
async fn output(sandbox: &Sandbox, script: &str) -> (Status, String) {
    let log = format!("log-{}", script.len());
    let exit = sandbox.run(Spawn { log: log.into(), ..shell(script) }).await.unwrap();
    (exit.status, exit.tail)
}

/// Polls until `done`; panics when it never is.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..4500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

fn processes_with(argument: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').any(|part| part == argument)
    };
    pids.filter(has).collect()
}

#[tokio::test]
async fn a_sandbox_proves_itself_and_nothing_of_it_is_left_after_destroy() {
    for kind in KINDS {
        let folder = folder();
        let sandbox = start(folder.path(), &kind).await;
        assert!(sandbox.proof().holds());
        assert!(sandbox.proof().checks.len() > 25, "{:#?}", sandbox.proof());
        sandbox.spawn(shell("exec sleep 4711.1")).await.unwrap();
        sandbox.spawn(shell("setsid sleep 4711.1 & exec sleep 4711.1")).await.unwrap();
        eventually("the sleepers run", || processes_with("4711.1").len() == 3).await;
        let destroyed = sandbox.destroy().await.unwrap();
        assert_eq!(destroyed.ended_processes, 4);
        assert_eq!(processes_with("4711.1"), [0_u32; 0]);
        destroyed.remove_dir().unwrap();
        assert!(!folder.path().join("box").exists());
    }
}

#[tokio::test]
async fn programs_run_with_their_environment_and_their_end_is_reported() {
    for kind in KINDS {
        let folder = folder();
        let sandbox = start(folder.path(), &kind).await;
        let greeting = Spawn { env: vec![("WHO".into(), "world".into())], ..shell("echo hello $WHO; pwd; exit 7") };
        let exit = sandbox.run(greeting).await.unwrap();
        assert_eq!(exit.status, Status::Exited(7));
        assert_eq!(exit.tail, format!("hello world\n{}\n", folder.path().join("box").display()));
        let sleeper = sandbox.spawn(shell("exec sleep 1000")).await.unwrap();
        sleeper.signal(Signal::Terminate).await.unwrap();
        assert_eq!(sleeper.wait().await.unwrap(), Status::Killed(15));
        assert_eq!(sleeper.wait().await.unwrap(), Status::Killed(15));
        sleeper.signal(Signal::Kill).await.unwrap();
        let missing = Spawn { argv: vec!["/no/such/program".into()], ..shell("") };
        assert!(matches!(sandbox.run(missing).await, Err(SandboxError::Refused { .. })));
        assert_eq!(sandbox.run(shell("true")).await.unwrap().status, Status::Exited(0));
    }
}

#[tokio::test]
async fn a_hostile_program_sees_and_reaches_nothing_of_the_host() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for kind in KINDS {
        let folder = folder();
        let sandbox = start(folder.path(), &kind).await;
        let (_, seen) = output(&sandbox, "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done").await;
        let others =
            seen.lines().filter(|line| !line.contains("/bin/sh -c") && !line.starts_with("tr ")).collect::<Vec<_>>();
        assert_eq!(others, ["/lifeboat-agent sandbox-agent serve "], "{seen}");
        for (number, attempt) in [
            format!("exec 3<>/dev/tcp/127.0.0.1/{port}"),
            "touch /usr/bin/x || touch /etc/x || touch /x || touch /dev/x || touch /var/x".into(),
            "ls /run || ls /var/run || ls /root || ls /home || ls /sys".into(),
            "mount -t tmpfs none /tmp".into(),
            "unshare --user true || unshare --net true".into(),
            "kill -9 1; sleep 0.1; kill -0 1 && ls /proc/1/fd /proc/1/mem 2>/dev/null".into(),
            "cat /proc/1/environ || cat /proc/1/mem || ls /proc/1/fd/".into(),
            "curl -sS --max-time 2 http://192.0.2.1/".into(),
            "ulimit -c 0".into(),
            "python3 -c 'import socket; socket.socket(40, socket.SOCK_STREAM)'".into(),
            "chown 0:0 .; mknod device c 1 1".into(),
        ]
        .iter()
        .enumerate()
        {
            let spawn = Spawn {
                argv: vec!["/bin/bash".into(), "-c".into(), attempt.clone()],
                log: format!("attempt-{number}").into(),
                ..shell("")
            };
            let exit = sandbox.run(spawn).await.unwrap();
            assert_ne!(exit.status, Status::Exited(0), "{kind:?}: {attempt}: {}", exit.tail);
        }
        assert_eq!(output(&sandbox, "true").await.0, Status::Exited(0), "the agent is alive");
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

/// Answers one HTTP request per run.
const SERVER: &str = "import http.server,sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'from inside')
http.server.HTTPServer(('127.0.0.1', 8069), H).serve_forever()";

#[tokio::test]
async fn a_prober_outside_speaks_http_to_a_server_inside() {
    for kind in KINDS {
        let folder = folder();
        let sandbox = start(folder.path(), &kind).await;
        assert!(matches!(sandbox.connect(8069).await, Err(SandboxError::Refused { .. })));
        let argv = ["/usr/bin/python3", "-c", SERVER].map(str::to_owned).to_vec();
        sandbox.spawn(Spawn { argv, ..shell("") }).await.unwrap();
        let mut connection = None;
        for _ in 0..3600 {
            connection = sandbox.connect(8069).await.ok();
            if connection.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let mut connection = connection.expect("the server inside listens");
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("from inside"), "{answer}");
        assert!(std::net::TcpStream::connect("127.0.0.1:8069").is_err(), "the host's own port is another");
    }
}

#[tokio::test]
async fn postgresql_runs_inside_and_is_reached_through_its_socket_only() {
    for kind in KINDS {
        let folder = folder();
        let sandbox = start(folder.path(), &kind).await;
        let sockets = sandbox.socket_dir();
        let (status, said) =
            output(&sandbox, &format!("{POSTGRES}/initdb -D data -U postgres --no-sync --auth=trust")).await;
        assert!(status.success(), "{said}");
        let serve =
            format!("exec {POSTGRES}/postgres -D data -c listen_addresses= -k {} -c fsync=off", sockets.display());
        let server = sandbox.spawn(Spawn { log: "server.log".into(), ..shell(&serve) }).await.unwrap();
        let psql = |sql: &str| {
            let output = std::process::Command::new(format!("{POSTGRES}/psql"))
                .args(["-h", sockets.to_str().unwrap(), "-U", "postgres", "-Atc", sql])
                .output()
                .unwrap();
            (
                output.status.success(),
                String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
            )
        };
        eventually("the server answers", || psql("SELECT 1").0).await;
        assert_eq!(psql("SELECT inet_client_addr() IS NULL").1, "t\n");
        let stolen = "CREATE TABLE t(x text); COPY t FROM PROGRAM 'curl -sS --max-time 2 http://192.0.2.1/ 2>&1; ls / /run 2>&1; id'; SELECT * FROM t";
        let (_, said) = psql(stolen);
        assert!(said.contains("Could not resolve") || said.contains("connect") || said.contains("curl:"), "{said}");
        assert!(!said.contains("uid=0"), "{said}");
        let mut stream = sandbox.connect_socket(&sockets.join(".s.PGSQL.5432")).await.unwrap();
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap(); // SSLRequest
        assert_eq!(stream.read_u8().await.unwrap(), b'N');
        server.signal(Signal::Interrupt).await.unwrap();
        assert_eq!(server.wait().await.unwrap(), Status::Exited(0));
        assert!(sandbox.tail(Path::new("server.log")).unwrap().contains("database system is shut down"));
        assert_eq!(sandbox.destroy().await.unwrap().ended_processes, 1);
    }
}

#[tokio::test]
async fn what_is_shown_read_only_can_be_read_and_not_changed() {
    for kind in KINDS {
        let folder = folder();
        let code = folder.path().join("real/code");
        std::fs::create_dir_all(&code).unwrap();
        std::fs::write(code.join("odoo-bin"), "echo from the code").unwrap();
        std::fs::set_permissions(&code, std::fs::Permissions::from_mode(0o777)).unwrap();
        let link = folder.path().join("code");
        std::os::unix::fs::symlink("real/code", &link).unwrap();
        let layout = Layout { read_only: vec![link.clone()], ..layout(folder.path()) };
        let sandbox = Sandbox::start(layout, kind).await.unwrap();
        let (status, said) = output(&sandbox, &format!("sh {}/odoo-bin", link.display())).await;
        assert_eq!((status, said.as_str()), (Status::Exited(0), "from the code\n"));
        assert!(!output(&sandbox, &format!("echo > {}/new", link.display())).await.0.success());
        assert!(!code.join("new").exists());
    }
}

#[tokio::test]
async fn a_folder_is_in_one_sandbox_at_a_time_and_never_a_link_or_somebody_elses() {
    let folder = folder();
    let sandbox = start(folder.path(), &Kind::Auto).await;
    let again = Sandbox::start(layout(folder.path()), Kind::Auto).await;
    assert!(matches!(again, Err(SandboxError::BadLayout { .. })), "{again:?}");
    sandbox.destroy().await.unwrap().remove_dir().unwrap();
    let box_path = folder.path().join("box");
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &box_path).unwrap();
    let linked = Sandbox::start(layout(folder.path()), Kind::Auto).await;
    assert!(matches!(linked, Err(SandboxError::BadLayout { .. })), "{linked:?}");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&elsewhere, Some(4242), None).unwrap();
        let layout = Layout { dir: elsewhere, ..layout(folder.path()) };
        let foreign = Sandbox::start(layout, Kind::Auto).await;
        assert!(matches!(foreign, Err(SandboxError::BadLayout { .. })), "{foreign:?}");
    }
}

#[tokio::test]
async fn two_sandboxes_at_once_do_not_see_each_other() {
    let (one, two) = (folder(), folder());
    let (first, second) = (start(one.path(), &Kind::Bubblewrap).await, start(two.path(), &Kind::Namespaces).await);
    first.spawn(shell("echo secret > file; echo x > /tmp/x; exec sleep 4712.1")).await.unwrap();
    eventually("it runs", || processes_with("4712.1").len() == 1).await;
    let look = format!("cat /proc/*/cmdline | tr '\\0' '\\n'; ls /tmp; cat {}/box/file", one.path().display());
    let (_, seen) = output(&second, &look).await;
    assert!(!seen.contains("4712.1"), "{seen}");
    assert!(!seen.contains("secret"), "{seen}");
    assert!(!seen.lines().any(|line| line == "x"), "{seen}");
    second.destroy().await.unwrap().remove_dir().unwrap();
    assert_eq!(processes_with("4712.1").len(), 1, "the other one goes on");
}

/// Not a test by itself: what the next one starts, and kills.
#[tokio::test]
async fn helper_that_holds_a_sandbox() {
    let Some(dir) = std::env::var_os("LIFEBOAT_TEST_HOLD") else { return };
    let kind = if std::env::var_os("LIFEBOAT_TEST_NAMESPACES").is_some() { Kind::Namespaces } else { Kind::Bubblewrap };
    let sandbox = start(Path::new(&dir), &kind).await;
    let number = std::env::var("LIFEBOAT_TEST_NUMBER").unwrap();
    sandbox.spawn(shell(&format!("setsid sleep {number} & exec sleep {number}"))).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn killing_lifeboat_leaves_nothing_running_even_when_the_agent_is_stopped() {
    for (kind, stopped) in [(&KINDS[0], false), (&KINDS[0], true), (&KINDS[1], false), (&KINDS[1], true)] {
        let folder = folder();
        let number = format!("47{}{}.5", i32::from(stopped), i32::from(*kind == Kind::Namespaces));
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "helper_that_holds_a_sandbox", "--nocapture"]);
        command.env("LIFEBOAT_TEST_HOLD", folder.path()).env("LIFEBOAT_TEST_NUMBER", &number);
        if *kind == Kind::Namespaces {
            command.env("LIFEBOAT_TEST_NAMESPACES", "1");
        }
        let mut holder = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        eventually("it runs", || processes_with(&number).len() == 2).await;
        if stopped {
            let sleeper = processes_with(&number)[0];
            for agent in agents_beside(sleeper) {
                let pid = rustix::process::Pid::from_raw(agent.cast_signed()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
            }
        }
        holder.kill().unwrap();
        holder.wait().unwrap();
        eventually("all are gone", || processes_with(&number).is_empty()).await;
    }
}

/// The agents (by their command line) that share a process namespace with `pid`.
fn agents_beside(pid: u32) -> Vec<u32> {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let agents: Vec<_> =
        processes_with("sandbox-agent").into_iter().filter(|agent| namespace(*agent) == namespace(pid)).collect();
    assert_eq!(agents.len(), 1);
    agents
}

#[tokio::test]
async fn a_sandbox_that_shares_the_hosts_network_is_refused() {
    let folder = folder();
    let leaky = folder.path().join("leaky-bwrap");
    std::fs::write(&leaky, "#!/bin/sh\nfirst=\"$1 $2\"; shift 2\nexec /usr/bin/bwrap $first --share-net \"$@\"\n")
        .unwrap();
    std::fs::set_permissions(&leaky, std::fs::Permissions::from_mode(0o755)).unwrap();
    let Err(SandboxError::NotSealed { failed }) =
        Sandbox::start(layout(folder.path()), Kind::BubblewrapAt(leaky)).await
    else {
        panic!("it was not refused for what it is")
    };
    let names: Vec<_> = failed.iter().map(|check| check.name.as_str()).collect();
    for expected in ["own net namespace", "no abstract sockets of the host", "seen from the host: listeners"] {
        assert!(names.contains(&expected), "{names:?}");
    }
    assert!(names.iter().any(|name| name.starts_with("no TCP to the host's 127.0.0.1")), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("no UDP to the host's 127.0.0.1")), "{names:?}");
    eventually("it is gone", || processes_with(folder.path().join("box").to_str().unwrap()).is_empty()).await;
}

/// Starts a sandbox with a bubblewrap that does something else: `script` changes the array `args`.
async fn failed_checks(folder: &Path, script: &str) -> Vec<String> {
    let leaky = folder.join("leaky-bwrap");
    let text = format!(
        "#!/bin/bash\nargs=()\nfor arg; do\n{script}\nargs+=(\"$arg\"); done\nexec /usr/bin/bwrap \"${{args[@]}}\"\n"
    );
    std::fs::write(&leaky, text).unwrap();
    std::fs::set_permissions(&leaky, std::fs::Permissions::from_mode(0o755)).unwrap();
    match Sandbox::start(layout(folder), Kind::BubblewrapAt(leaky)).await {
        Err(SandboxError::NotSealed { failed }) => failed.into_iter().map(|check| check.name).collect(),
        other => panic!("{script}: {other:?}"),
    }
}

#[tokio::test]
async fn each_hole_in_a_sandbox_fails_the_check_made_for_it() {
    let folder = folder();
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(other.join("socket")).unwrap();
    std::fs::set_permissions(other.join("socket"), std::fs::Permissions::from_mode(0o777)).unwrap();
    // Added before `--remount-ro /dev`, after all that the plan asks for.
    let add = |what: &str| format!("if [ \"$arg\" = --remount-ro ]; then args+=({what}); fi");
    let other = other.display();
    let without = |kind: &str| {
        let rest: Vec<_> = ["user", "ipc", "pid", "net", "uts"].into_iter().filter(|one| *one != kind).collect();
        let rest = rest.join(" --unshare-");
        format!("if [ \"$arg\" = --unshare-all ]; then args+=(--unshare-{rest}); continue; fi")
    };
    for (hole, expected) in [
        (without("ipc"), "own ipc namespace"),
        (without("net"), "only the loopback interface"),
        (
            without("uts")
                + "\nif [ \"$arg\" = --hostname ]; then skip=1; continue; fi; if [ \"$skip\" = 1 ]; then skip=0; continue; fi",
            "own uts namespace",
        ),
        ("if [ \"$arg\" = --as-pid-1 ]; then continue; fi".into(), "no other processes"),
        (add(&format!("--bind {other} /srv/other")), "only what was planned is mounted"),
        (add("--bind /usr /usr"), "only what was planned is mounted"),
        (add("--tmpfs /home"), "no writing outside"),
        (add("--ro-bind /run /run"), "the host's places are absent"),
        (add(&format!("--ro-bind {other} {other}")), "no sockets of the host"),
        (add("--setenv TOKEN x"), "empty environment"),
        (add("--remount-ro /tmp --remount-ro \"$HOME\""), "its own folder can be written to"),
    ] {
        let failed = failed_checks(folder.path(), &hole).await;
        assert!(failed.iter().any(|check| check == expected), "{hole}: {failed:#?}");
    }
}

#[tokio::test]
async fn traps_laid_for_whoever_reaches_in_are_not_stepped_into() {
    let folder = folder();
    let outside = std::os::unix::net::UnixListener::bind(folder.path().join("host-socket")).unwrap();
    std::fs::write(folder.path().join("host-file"), "host secret").unwrap();
    let sandbox = start(folder.path(), &Kind::Bubblewrap).await;
    let script = format!(
        "ln -s {0}/host-file link; mkfifo fifo; mkdir deep; ln -s .. deep/up; ln -s {0}/host-socket sockets/.s.PGSQL.5432; printf 'a\\033[2Jb' > plain",
        folder.path().display()
    );
    assert!(output(&sandbox, &script).await.0.success());
    for trap in ["link", "fifo", "deep/up/plain", "../host-file", "deep", "sockets/.s.PGSQL.5432", "", "/etc/shadow"] {
        let opened = sandbox.open(Path::new(trap));
        assert!(matches!(opened, Err(SandboxError::Trap { .. } | SandboxError::Io { .. })), "{trap}: {opened:?}");
    }
    let server = sandbox.connect_socket(&sandbox.socket_dir().join(".s.PGSQL.5432")).await;
    assert!(matches!(server, Err(SandboxError::Trap { .. })), "{server:?}");
    outside.set_nonblocking(true).unwrap();
    assert!(outside.accept().is_err());
    let mut text = String::new();
    sandbox.open(Path::new("plain")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "a\x1b[2Jb");
    assert_eq!(sandbox.tail(Path::new("plain")).unwrap(), "a\u{FFFD}[2Jb");
    sandbox.destroy().await.unwrap().remove_dir().unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("host-file")).unwrap(), "host secret");
}

#[tokio::test]
async fn a_log_that_is_a_link_out_is_not_written_through() {
    let folder = folder();
    let sandbox = start(folder.path(), &Kind::Bubblewrap).await;
    assert!(output(&sandbox, "ln -s /tmp/elsewhere trap").await.0.success());
    let spawn = Spawn { log: PathBuf::from("trap"), ..shell("echo x") };
    assert!(matches!(sandbox.run(spawn).await, Err(SandboxError::Refused { .. })));
}

#[tokio::test]
async fn what_cannot_be_built_says_why() {
    let folder = folder();
    let agent = folder.path().join("lifeboat");
    std::fs::copy(AGENT, &agent).unwrap();
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o600)).unwrap();
    let layout = Layout { agent, ..layout(folder.path()) };
    for kind in KINDS {
        let refused = Sandbox::start(layout.clone(), kind).await;
        let Err(SandboxError::Build { said, .. }) = refused else { panic!("{refused:?}") };
        assert!(said.contains("ermission denied"), "{said}");
    }
}

/// Sends `frame` to an agent that no sandbox was built around, and gives its answer.
fn ask_unproven(lifeline: &std::os::fd::OwnedFd, frame: &[u8]) -> String {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let descriptors = [theirs.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors));
    let packet = [std::io::IoSlice::new(b"c")];
    rustix::net::sendmsg(lifeline, &packet, &mut ancillary, rustix::net::SendFlags::NOSIGNAL).unwrap();
    drop(theirs);
    ours.write_all(frame).unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = ours.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn an_agent_refuses_nonsense_and_starts_nothing_before_the_proof() {
    let kind = rustix::net::SocketType::SEQPACKET;
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let (lifeline, inner) = rustix::net::socketpair(rustix::net::AddressFamily::UNIX, kind, flags, None).unwrap();
    let mut agent = std::process::Command::new(AGENT).args(["sandbox-agent", "serve"]).stdin(inner).spawn().unwrap();
    let framed = |body: &str| [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body.as_bytes()].concat();
    let folder = folder();
    let trace = folder.path().join("trace");
    let spawn = format!(
        r#"{{"ask":"spawn","argv":["/usr/bin/touch","{}"],"env":[],"cwd":null,"log":"/dev/null"}}"#,
        trace.display()
    );
    for frame in [
        framed(&spawn),
        framed("{}"),
        framed(r#"{"ask":"format_disk"}"#),
        framed(r#"{"ask":"wait","id":1}"#),
        framed(r#"{"ask":"wait","id":0}"#),
        framed(r#"{"ask":"connect","port":70000}"#),
        framed(&"[".repeat(100_000)),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 64],
        vec![0],
        Vec::new(),
    ] {
        let answer = ask_unproven(&lifeline, &frame);
        assert!(answer.contains(r#""answer":"refused""#), "{answer}");
    }
    rustix::net::send(&lifeline, b"no descriptor", rustix::net::SendFlags::NOSIGNAL).unwrap();
    assert!(ask_unproven(&lifeline, &framed(&spawn)).contains("before the sandbox is proven"));
    assert!(!trace.exists());
    drop(lifeline);
    assert!(agent.wait().unwrap().success(), "it ends with its lifeline");
}
