//! `run` and `verify`

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;

use super::{block_on, Global, Home};
use crate::blobs::Blobs;
use crate::chain::Chain;
use crate::journal::{AuditJournal, TaskJournal};
use crate::model::Sandbox;
use crate::recheck;
use crate::run::{check_alone, Engines, Executor, Pace, Registration, Worker};
use crate::serving;
use crate::verify::{self, Verifier};

/// Becomes true at SIGTERM or SIGINT; at the second one the process ends.
pub(super) fn stop() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send_replace(true) {
                std::process::exit(130);
            }
        }
    });
    Ok(receiver)
}

/// Lowers the priority of this process, before it has other threads.
fn lower_priority(nice: i32) -> anyhow::Result<()> {
    if nice == 0 {
        return Ok(());
    }
    // SAFETY: setpriority reads its integers and nothing else.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("nice {nice}"));
    }
    Ok(())
}

fn engines(home: &Home, sandbox: &Sandbox) -> anyhow::Result<Engines> {
    let ids = home.models()?;
    tracing::info!(models = ids.len(), "loading, and checking every weight");
    let (device, options) = (home.config.device, home.engine_options());
    Ok(Engines::load(&home.models_folder(), &ids, sandbox, &|model| device.engine(model, options))?)
}

/// Runs the worker of a home folder until it is told to stop. Its answers are those of the executor that `executor`
/// makes of the loaded models, whose chat templates run in `sandbox`.
pub fn run<E: Executor>(
    global: &Global,
    sandbox: &Sandbox,
    executor: impl FnOnce(&Home, Engines, &Arc<dyn Chain>) -> anyhow::Result<E>,
) -> anyhow::Result<()> {
    global.log();
    let home = global.open()?;
    let config = &home.config;
    lower_priority(config.nice)?;
    let signer = home.keyring(global.passphrase())?.signer(&config.key)?;
    // The lock first: a second worker on this key must not even connect.
    let address = signer.address().to_string();
    let journal = TaskJournal::open(&home.journal("run"), &config.chain_id, &address)?;
    let blobs = Blobs::open(&home.blobs_folder()).context("blobs")?;
    let engines = engines(&home, sandbox)?;
    let mine = &config.worker;
    let registration = Registration {
        bond: mine.bond.into(),
        validator: mine.validator.clone(),
        endpoint: mine.endpoint.clone(),
        hardware: mine.hardware.clone(),
        declared: mine.declared,
    };
    let pace =
        Pace { drain: Duration::from_secs(mine.drain_seconds), parallel: mine.parallel, ..Pace::default() };
    block_on(async {
        let chain: Arc<dyn Chain> = Arc::new(home.chain(signer).await?);
        // The lock tells of this home alone, the chain of a copy of it too.
        check_alone(&*chain).await?;
        let rechecked = recheck::watch(engines.all(), recheck::EVERY);
        let executor = Arc::new(executor(&home, engines, &chain)?);
        let worker = Worker::new(chain, executor, journal, blobs, registration, pace);
        let stop = stop()?;
        if let Some(address) = mine.metrics()? {
            let metrics = worker.metrics.clone();
            tokio::spawn(async move {
                if let Err(error) = crate::metrics::serve(address, metrics).await {
                    tracing::error!(%error, %address, "metrics");
                }
            });
        }
        let listener = tokio::net::TcpListener::bind(mine.listen)
            .await
            .with_context(|| format!("worker.listen {}", mine.listen))?;
        tracing::info!(address, listen = %mine.listen, "working");
        let serving = tonic::transport::Server::builder()
            .timeout(Duration::from_secs(30))
            .add_service(serving::service(worker.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        // Users and auditors are served until the tasks under way have drained.
        tokio::select! {
            served = serving => served.context("serving"),
            changed = rechecked => Err(changed),
            ended = worker.run(stop) => {
                ended.context("no device to go on with")?;
                tracing::info!("stopped");
                Ok(())
            }
        }
    })
}

pub(super) fn verify(global: &Global) -> anyhow::Result<()> {
    global.log();
    let home = global.open()?;
    lower_priority(home.config.nice)?;
    let signer = home.keyring(global.passphrase())?.signer(&home.config.key)?;
    let journal = AuditJournal::open(&home.journal("verify"))?;
    let engines = engines(&home, &Sandbox::this_program().for_audits())?;
    block_on(async {
        let address = signer.address();
        let chain: Arc<dyn Chain> = Arc::new(home.chain(signer).await?);
        tracing::info!(%address, "auditing");
        let rechecked = recheck::watch(engines.all(), recheck::EVERY);
        tokio::select! {
            changed = rechecked => Err(changed),
            ended = Verifier::new(chain, engines, journal, verify::Pace::default()).run(stop()?) => {
                ended.context("no device to go on with")?;
                tracing::info!("stopped");
                Ok(())
            }
        }
    })
}
