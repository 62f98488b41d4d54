//! The calls of NVIDIA's driver, of a library in its place that runs the kernels on the emulator and ends the process where
//! it is called wrongly: that takes a process of its own.
#![cfg(all(target_os = "linux", not(target_feature = "crt-static")))]

use std::ffi::CString;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::reference::Reference;
use deepnode_worker::canon::{Architecture, Device, Run, SamplingParams, PAGE};
use deepnode_worker::cuda::{args, cards, Card, Cuda, Driver, Gpu, Launch, Room, Spent, Timed};
use deepnode_worker::engine::{Claim, Engine, Question, Request, Stop};
use deepnode_worker::model::synthetic::small;
use parking_lot::Mutex;

/// The library is called by one thread at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The card of the library, which is loaded in the driver's place.
fn card() -> Card {
    let path = CString::new(deepnode_emulator::DRIVER).unwrap();
    // SAFETY: the library only defines functions; it stays.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!library.is_null(), "{}", deepnode_emulator::DRIVER);
    let cards = cards().unwrap();
    assert_eq!(cards.iter().map(|card| &card.name[..]).collect::<Vec<_>>(), ["emulated"]);
    cards[0].clone()
}

/// Weights of more than the page-locked memory holds at once, so that both ways of writing are taken.
fn arch() -> Architecture {
    Architecture { vocab: 9000, ..small() }
}

/// A prompt in tiles, steps of several widths that are recorded and repeated, and tokens drawn: as the reference has them.
fn agree(device: &dyn Device, reference: &dyn Device) {
    let tokens: Vec<u32> = (0..60).map(|i| i * 31 % arch().vocab).collect();
    let run = |first, end, pages| Run { tokens: &tokens[first..end], first, pages };
    let both = |runs: &[Run<'_>]| {
        let [got, want] = [device, reference].map(|device| device.forward(runs, None).unwrap());
        assert!(got == want, "{runs:?}");
        let x = &got.x_final[got.x_final.len() - arch().width as usize..];
        let choices = [(SamplingParams { temperature_micros: 900_000, ..SamplingParams::GREEDY }, 3)];
        let [got, want] = [device, reference].map(|device| device.sample(x, &choices).unwrap());
        assert_eq!(got, want);
    };
    both(&[run(0, 50, &[0])]);
    both(&[run(50, 51, &[0]), run(0, 1, &[2])]);
    for at in 51..54 {
        both(&[run(at, at + 1, &[0])]);
    }
    for device in [device, reference] {
        device.copy_page(0, 1).unwrap();
    }
    both(&[run(54, 56, &[1])]);
}

#[test]
fn a_card_behind_the_driver_agrees() {
    let _turn = TURN.lock();
    let card = card();
    let model = Arc::new(RandomDecoder::new(arch(), 1));
    let reference = Reference::new(model.clone());
    let room = Room { rows: 64, pages: Some(3) };
    for overlap in [false, true] {
        let driver = Driver::open(&card, overlap).unwrap();
        agree(&Cuda::new(driver, &*model, room).unwrap(), &reference);
    }

    // Each launch timed, in graphs with events.
    let spent = Arc::new(Mutex::new(Spent::new()));
    let timed = Timed::new(Driver::open(&card, true).unwrap(), Driver::time, Arc::clone(&spent));
    agree(&Cuda::new(timed, &*model, room).unwrap(), &reference);
    let spent = spent.lock();
    assert!(spent.values().all(|(launches, time)| *launches > 0 && !time.is_zero()), "{spent:?}");
    assert!([args::EMBED, args::GATE[0], args::GATE[6], args::CHOOSE].iter().all(|k| spent.contains_key(k)));
}

/// As a worker opens a card, the proof included; what it generates it audits, and so does the reference.
#[test]
fn an_engine_behind_the_driver_agrees() {
    let _turn = TURN.lock();
    let model = RandomDecoder::new(arch(), 2);
    let engine = Engine::cuda(&model, &card(), Some(4 * PAGE)).unwrap();
    let reference = Engine::reference(Arc::new(model)).unwrap();
    let go = AtomicBool::new(false);
    let request =
        Request { prompt: &[5; 40], params: &SamplingParams::GREEDY, max_output: 6, stop: Stop::NONE };
    let [got, want] = [&engine, &reference]
        .map(|engine| engine.session(46).unwrap().generate(&request, &mut |_| (), &go).unwrap());
    assert_eq!(got, want);
    let question = Question { claim: Claim::of(request, &got), beacon: [9; 32], receipt: [7; 32] };
    let [got, want] = [&engine, &reference].map(|engine| engine.audit(&question, &go).unwrap());
    assert_eq!((got.agrees(), got), (true, want));
}

#[test]
fn kernels_are_added_and_asked_for() {
    let _turn = TURN.lock();
    let card = card();
    assert_eq!((card.capability, card.clocks), ((9, 0), Some((1_980_000, 3_201_000))));
    let mut driver = Driver::open(&card, false).unwrap();
    let loaded = driver.loaded().unwrap();
    assert!(loaded.iter().map(|loaded| loaded.kernel).eq(args::kernels()));
    assert!(loaded.iter().all(|loaded| (loaded.registers, loaded.local) == (64, 0)));
    assert_eq!(driver.multiprocessors().unwrap(), 132);

    let another = [Launch::new("another", [1; 3], 32, &0u64)];
    assert_eq!(driver.run(&another).unwrap_err().to_string(), "cuLaunchKernelEx: another: no such kernel");
    // What was begun to be captured is ended: the next is.
    assert!(driver.record(&another).is_err() && driver.time(&another).is_err());
    assert!(driver.load("another", ".version 8.0 .entry others(").is_err());
    driver.load("another", ".version 8.0 .entry another(").unwrap();
    driver.run(&another).unwrap();
    assert_eq!(driver.time(&another).unwrap().len(), 1);
}
