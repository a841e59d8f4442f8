//! The outbox: pushers against the taker against the end.

use std::sync::Arc;

use shuttle::thread;

use crate::{CloseReason, Outbox, OutboxError};

pub(super) fn push_take_close() {
    let outbox = Arc::new(Outbox::new(2));
    let taker = thread::spawn({
        let outbox = Arc::clone(&outbox);
        move || {
            let mut taken = Vec::new();
            while let Some(command) = shuttle::future::block_on(outbox.next()) {
                taken.push(command);
            }
            taken
        }
    });
    let pushers = [10_u64, 20].map(|base| {
        let outbox = Arc::clone(&outbox);
        thread::spawn(move || {
            let mut accepted = Vec::new();
            for command in base..base + 2 {
                match outbox.try_push(command) {
                    Ok(()) => accepted.push(command),
                    Err(OutboxError::Full(back) | OutboxError::Closed(back)) => assert_eq!(back, command),
                }
            }
            accepted
        })
    });
    let mut accepted: Vec<u64> = pushers.map(|pusher| pusher.join().unwrap()).concat();
    // Draining: what was accepted is still taken.
    assert!(outbox.close(CloseReason::Draining));
    let mut taken = taker.join().unwrap();
    accepted.sort_unstable();
    taken.sort_unstable();
    assert_eq!(taken, accepted);
}
