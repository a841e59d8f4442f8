//! The standard library and `parking_lot` as the models see them: every lock and atomic under shuttle's scheduler.
//!
//! One crate stands in for both, so that the core's own source compiles unchanged against it. Whatever is not named
//! here is the standard library's own.

mod locks;

#[allow(unused_imports, reason = "what the core needs of it is its own affair")]
pub use std::*;

pub use shuttle::{hint, thread};

pub use self::locks::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard, WaitTimeoutResult};

/// `std::sync` with shuttle's atomics.
pub mod sync {
    pub use std::sync::*;

    /// `std::sync::atomic` under shuttle.
    pub mod atomic {
        pub use std::sync::atomic::*;

        pub use shuttle::sync::atomic::{
            AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, fence,
        };
    }
}
