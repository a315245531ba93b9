//! Where programs are set up: connections, files, loops; and in the simulator a world around them.

use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek};
use oxev::{Loop, TcpListener, TcpStream, ThreadPool};

use super::model::initial_content;
use super::model::{LoopModel, model};
use super::poster::PosterThread;
use super::program::{Backend, ENDS, Program};
use super::submissions::address_of;
use super::world::{Parts, Platform, World, enter_world, world};

/// Loops that keep their address, by which the model knows them.
pub(crate) type Loops = Vec<Box<Loop>>;

/// What all programs of a thread share.
pub(crate) struct Environment {
    ipv4: Network,
    /// `None`: there is no such thing here.
    ipv6: Option<Network>,
    directory: PathBuf,
}

/// What connections of one family need.
struct Network {
    /// Makes pairs of real connections.
    listener: StdListener,
    /// A port without a listener.
    nowhere: SocketAddr,
    _reserved: socket2::Socket,
}

impl Network {
    fn new(loopback: IpAddr) -> io::Result<Network> {
        let any_port = SocketAddr::from((loopback, 0));
        let reserved =
            socket2::Socket::new(socket2::Domain::for_address(any_port), socket2::Type::STREAM, None)?;
        reserved.bind(&any_port.into())?;
        let nowhere = reserved.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok(Network { listener: StdListener::bind(any_port)?, nowhere, _reserved: reserved })
    }

    fn pair(&self) -> io::Result<(TcpStream, TcpStream)> {
        let one = StdStream::connect(self.listener.local_addr()?)?;
        let other = self.listener.accept()?.0;
        Ok((TcpStream::from_std(one)?, TcpStream::from_std(other)?))
    }
}

impl Environment {
    pub(crate) fn new() -> io::Result<Environment> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static STAGES: AtomicU32 = AtomicU32::new(0);
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("oxev-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("constant"), initial_content())?;
        Ok(Environment {
            ipv4: Network::new(Ipv4Addr::LOCALHOST.into())?,
            ipv6: Network::new(Ipv6Addr::LOCALHOST.into()).ok(),
            directory,
        })
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Sets a program up: its world, and its loops.
pub(crate) fn set_up(
    environment: &Environment,
    program: &Program,
    pool: &ThreadPool,
    poster: &PosterThread,
) -> io::Result<Loops> {
    match program.backend {
        #[cfg(feature = "sim")]
        Backend::Sim => simulated::set_up(program, pool, poster),
        #[cfg(not(feature = "sim"))]
        Backend::Sim => Err(io::ErrorKind::Unsupported.into()),
        _ => set_up_real(environment, program, pool, poster),
    }
}

fn set_up_real(
    environment: &Environment,
    program: &Program,
    pool: &ThreadPool,
    poster: &PosterThread,
) -> io::Result<Loops> {
    let directory = environment.directory.to_str().ok_or(io::ErrorKind::Unsupported)?.to_owned();
    std::fs::write(environment.directory.join("data"), initial_content())?;
    std::fs::write(environment.directory.join("mixed"), initial_content())?;
    std::fs::File::create(environment.directory.join("log"))?.set_len(LOG_BASE)?;
    make_fifo(&environment.directory.join("fifo"))?;
    let network = environment.ipv6.as_ref().filter(|_| program.setting.ipv6).unwrap_or(&environment.ipv4);
    let listener = TcpListener::bind((network.nowhere.ip(), 0))?;
    let base = std::time::Instant::now();
    model(|m| m.clock = super::model::Clock::Real(base));
    enter_world(World::new(Parts {
        backend: program.backend,
        setting: program.setting.clone(),
        thread_pool: pool.clone(),
        poster: poster.clone(),
        address: listener.local_addr()?,
        listener,
        nowhere: network.nowhere,
        directory,
        platform: Platform::Real,
        base,
    })?);
    prepare_log(program.setting.room)?;
    let loops = make_loops(program)?;
    for pair in 0..usize::from(ENDS) / 2 {
        let (one, other) = network.pair()?;
        if pair > 0 {
            for stream in [&one, &other] {
                stream.set_send_buffer_size(program.setting.socket_bytes)?;
                stream.set_recv_buffer_size(program.setting.socket_bytes)?;
            }
        }
        put_pair(pair, one, other);
    }
    Ok(loops)
}

/// A new FIFO, in which there is nothing.
fn make_fifo(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

/// Where the log of real backends begins. A limit of file sizes beyond this concerns no other file.
const LOG_BASE: u64 = 1 << 30;

/// Puts the log's position where it begins, and limits it.
fn prepare_log(room: Option<usize>) -> io::Result<()> {
    world(|w| lseek(&*w.log, LOG_BASE as libc::off_t, Whence::SeekSet))?;
    if let Some(room) = room {
        super::descriptors::ignore_file_size_signal();
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE)?;
        setrlimit(Resource::RLIMIT_FSIZE, (LOG_BASE + room as u64) as libc::rlim_t, hard)?;
        model(|m| m.faults.room = Some(room));
    }
    Ok(())
}

/// Files may be as large as before.
pub(crate) fn lift_limits() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_FSIZE)
        && soft != hard
    {
        let _ = setrlimit(Resource::RLIMIT_FSIZE, hard, hard);
    }
}

/// What is in the log is what was written, and it ends where the next write would begin.
fn check_log(world: &World) {
    let (content, position) = match &world.platform {
        Platform::Real => {
            let content = std::fs::File::open(format!("{}/log", world.directory)).and_then(|mut file| {
                let mut content = Vec::new();
                file.seek(SeekFrom::Start(LOG_BASE))?;
                file.read_to_end(&mut content)?;
                Ok(content)
            });
            let position = lseek(&*world.log, 0, Whence::SeekCur).ok();
            (content.ok(), position.map(|at| at as usize - LOG_BASE as usize))
        }
        #[cfg(feature = "sim")]
        Platform::Simulated(hosts) => (hosts[0].read_file(&world.path("log")), None),
    };
    let Some(content) = content else { return super::model::report("files hold what was written", "no log") };
    model(|m| match m.log.check(&content, position, m.faults.room) {
        Ok(checked) => m.stats.add("bytes", "in the log", checked as u64),
        Err(detail) => m.report("writes at the position are as write(2) has them", detail),
    });
}

/// What is in the file that is read and written at its position is what that gives.
fn check_mixed(world: &World) {
    let (content, position) = match &world.platform {
        Platform::Real => {
            let position = lseek(&*world.mixed, 0, Whence::SeekCur).ok();
            (std::fs::read(format!("{}/mixed", world.directory)).ok(), position.map(|at| at as usize))
        }
        #[cfg(feature = "sim")]
        Platform::Simulated(hosts) => (hosts[0].read_file(&world.path("mixed")), None),
    };
    let Some(content) = content else {
        return super::model::report("files hold what was written", "it is gone");
    };
    model(|m| {
        let room = m.faults.room.filter(|_| m.backend == Backend::Sim);
        match m.mixed.check(&content, position, room) {
            Ok(checked) => m.stats.add("bytes", "in the mixed file", checked as u64),
            Err(detail) => m.report("reads and writes at the position are as read(2) and write(2)", detail),
        }
    });
}

/// Makes the loops of a program, and tells the model of them.
fn make_loops(program: &Program) -> io::Result<Loops> {
    let mut loops = Vec::new();
    for on in 0..program.setting.loops {
        let (lp, bufs) = world(|w| w.new_loop(on))?;
        world(|w| w.install(on, &lp, bufs));
        model(|m| {
            m.loops.push(LoopModel::default());
            m.loop_built(on, address_of(&lp), program.setting.capacity);
        });
        loops.push(lp);
    }
    Ok(loops)
}

fn put_pair(pair: usize, one: TcpStream, other: TcpStream) {
    world(|w| {
        let (one, other) = (w.link(one), w.link(other));
        model(|m| m.pair(one.side, other.side));
        w.ends[2 * pair] = Some(one);
        w.ends[2 * pair + 1] = Some(other);
    });
}

/// Takes a world apart, when its loops are gone. The trace of it, if it is simulated.
pub(crate) fn tear_down(mut world: World) -> u64 {
    check_file(&world);
    check_log(&world);
    check_mixed(&world);
    drop(std::mem::take(&mut world.leases));
    let links = world.ends.iter().flatten();
    if world.backend != Backend::Sim {
        // What is left is reset, so that thousands of programs do not use up the ports.
        links.for_each(|link| _ = link.stream().set_linger(Some(Duration::ZERO)));
        let _ = std::fs::remove_file(format!("{}/new", world.directory));
    }
    let trace = match &world.platform {
        Platform::Real => 0,
        #[cfg(feature = "sim")]
        Platform::Simulated(hosts) => hosts[0].trace(),
    };
    drop(world);
    trace
}

/// What is in the file is what was written.
fn check_file(world: &World) {
    let content = match &world.platform {
        Platform::Real => std::fs::read(format!("{}/data", world.directory)).ok(),
        #[cfg(feature = "sim")]
        Platform::Simulated(hosts) => hosts[0].read_file(&world.path("data")),
    };
    let checked = match content {
        Some(content) => model(|m| m.file.check_content(&content)),
        None => Err("it is gone".to_owned()),
    };
    if let Err(detail) = checked {
        super::model::report("files hold what was written", detail);
    }
}

#[cfg(feature = "sim")]
pub(crate) use simulated::{advance, partition, reset_connections, run_together};

#[cfg(not(feature = "sim"))]
pub(crate) fn partition(_: bool) {}

#[cfg(not(feature = "sim"))]
pub(crate) fn advance(_: std::time::Duration) {}

#[cfg(not(feature = "sim"))]
pub(crate) fn reset_connections() {}

#[cfg(not(feature = "sim"))]
pub(crate) fn run_together(_: &mut [Box<Loop>], _: u16) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(feature = "sim")]
mod simulated {
    use oxev::sim::{Faults, SimOptions, Simulation};
    use oxev::{Completion, Output};
    use std::cell::Cell;
    use std::ffi::CString;

    use super::super::model::{Clock, FaultModel};
    use super::*;

    const PORT: u16 = 7000;

    fn host(on: usize, ipv6: bool) -> IpAddr {
        match ipv6 {
            true => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1 + on as u16).into(),
            false => Ipv4Addr::new(10, 0, 0, 1 + on as u8).into(),
        }
    }

    pub(super) fn set_up(program: &Program, pool: &ThreadPool, poster: &PosterThread) -> io::Result<Loops> {
        let setting = &program.setting;
        let options = SimOptions {
            seed: program.seed,
            socket_buffer_bytes: setting.socket_bytes,
            ..SimOptions::calm()
        };
        let simulation = Simulation::new(options);
        let host = |on| host(on, setting.ipv6);
        let hosts: Vec<Simulation> = (0..setting.loops).map(|on| simulation.host(host(on))).collect();
        for name in ["data", "constant", "mixed"] {
            let path = CString::new(format!("/disk/{name}")).expect("no zero in it");
            simulation.write_file(&path, initial_content());
        }
        simulation.write_file(c"/disk/log", []);
        if let Some(room) = setting.room {
            simulation.limit_disk((3 * initial_content().len() + room) as u64);
            model(|m| m.faults.room = setting.room);
        }
        let unspecified: IpAddr = match setting.ipv6 {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        };
        let listener = hosts[0].enter(|| TcpListener::bind((unspecified, PORT)))?;
        model(|m| m.clock = Clock::Sim(simulation.clone()));
        enter_world(World::new(Parts {
            backend: Backend::Sim,
            setting: setting.clone(),
            thread_pool: pool.clone(),
            poster: poster.clone(),
            listener,
            address: (host(0), PORT).into(),
            nowhere: (host(0), PORT + 1).into(),
            directory: "/disk".to_owned(),
            platform: Platform::Simulated(hosts),
            base: std::time::Instant::now(),
        })?);
        let mut loops = make_loops(program)?;
        for pair in 0..usize::from(ENDS) / 2 {
            let from = pair % loops.len();
            let one = complete(&mut loops[from], |()| TcpStream::connect((host(0), PORT)), ())?;
            let listener = world(|w| std::rc::Rc::clone(&w.listener));
            let other = complete(&mut loops[0], |listener| listener.accept(), listener)?;
            put_pair(pair, one, other);
        }
        loops[0].update_now();
        let base = loops[0].now() - simulation.elapsed();
        world(|w| w.base = base);
        if !setting.calm {
            let faults = SimOptions::swarm(program.seed).faults;
            model(|m| m.faults = FaultModel { room: m.faults.room, ..faults_of(&faults) });
            note_faults(&faults);
            simulation.set_faults(faults);
        }
        Ok(loops)
    }

    /// Runs one operation to its end, outside the program.
    fn complete<T, R, F>(lp: &mut Loop, prepare: F, state: T) -> io::Result<R>
    where
        T: 'static,
        R: Output,
        F: for<'a> FnOnce(&'a mut T) -> oxev::Op<'a, R>,
    {
        struct Asker<T, R>(T, std::rc::Rc<Cell<Option<io::Result<R>>>>);
        let answer = std::rc::Rc::new(Cell::new(None));
        let owner = Box::new(Completion::new(Asker(state, std::rc::Rc::clone(&answer))));
        lp.submit(owner, |asker| prepare(&mut asker.0), |_, asker, result| asker.1.set(Some(result)));
        lp.run(oxev::RunMode::UntilDone)?;
        answer.take().ok_or(io::ErrorKind::Other)?
    }

    fn faults_of(faults: &Faults) -> FaultModel {
        FaultModel {
            resets: faults.connection_reset > 0.0,
            refuses: faults.connection_refused > 0.0,
            io_errors: faults.io_error > 0.0,
            no_space: faults.no_space > 0.0,
            room: None,
            short_reads: faults.short_read > 0.0,
            short_writes: faults.short_write > 0.0,
        }
    }

    fn note_faults(faults: &Faults) {
        let all = [
            ("latency", faults.latency_max.as_nanos() as f64),
            ("short_read", faults.short_read),
            ("short_write", faults.short_write),
            ("interrupt", faults.interrupt),
            ("again", faults.again),
            ("connection_reset", faults.connection_reset),
            ("connection_refused", faults.connection_refused),
            ("no_space", faults.no_space),
            ("io_error", faults.io_error),
            ("reorder", faults.reorder),
            ("cancel_loses", faults.cancel_loses),
            ("submission_queue_full", faults.submission_queue_full),
            ("completion_queue_overflow", faults.completion_queue_overflow),
            ("late_completion", faults.late_completion),
            ("native_multishot", faults.native_multishot),
            ("lost_continuation", faults.lost_continuation),
        ];
        for (name, how_often) in all {
            if how_often > 0.0 {
                model(|m| m.stats.count("programs with", name));
            }
        }
    }

    fn simulation() -> Option<(Simulation, usize)> {
        world(|w| match &w.platform {
            Platform::Real => None,
            Platform::Simulated(hosts) => Some((hosts[0].clone(), hosts.len())),
        })
    }

    /// The address of a host of the program that runs.
    fn host_here(on: usize) -> IpAddr {
        host(on, world(|w| w.setting.ipv6))
    }

    /// Cuts the first host off from the second, or from itself if there is no other; or mends that.
    pub(crate) fn partition(cut: bool) {
        let Some((simulation, count)) = simulation() else { return };
        let (first, other) = (host_here(0), host_here(usize::from(count > 1)));
        match cut {
            true => simulation.partition(first, other),
            false => simulation.heal(first, other),
        }
        model(|m| {
            m.partitioned = cut;
            m.stats.count("world", if cut { "partitioned" } else { "healed" });
        });
    }

    pub(crate) fn advance(duration: Duration) {
        if let Some((simulation, _)) = simulation() {
            simulation.advance(duration);
        }
    }

    pub(crate) fn reset_connections() {
        let Some((simulation, _)) = simulation() else { return };
        model(|m| m.faults.resets = true);
        let count = simulation.reset_connections(host_here(0), host_here(0));
        model(|m| m.stats.add("world", "ends reset", count as u64));
    }

    pub(crate) fn run_together(loops: &mut [Box<Loop>], us: u16) -> io::Result<()> {
        let Some((simulation, _)) = simulation() else { return Ok(()) };
        let mut all: Vec<&mut Loop> = loops.iter_mut().map(|lp| &mut **lp).collect();
        simulation.run_for(&mut all, Duration::from_micros(u64::from(us)))
    }
}
