//! `parking_lot`'s locks over shuttle's: the same calls, without poisoning.

use std::time::Duration;

use shuttle::sync as over;
pub use shuttle::sync::{MutexGuard, RwLockWriteGuard};
use std::sync::PoisonError;

/// `parking_lot::Mutex`.
#[derive(Debug, Default)]
pub struct Mutex<T>(over::Mutex<T>);

impl<T> Mutex<T> {
    /// As in `parking_lot`.
    pub const fn new(value: T) -> Self {
        Self(over::Mutex::new(value))
    }

    /// As in `parking_lot`.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As in `parking_lot`.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }

    /// As in `parking_lot`.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `parking_lot::RwLock`.
#[derive(Debug, Default)]
pub struct RwLock<T>(over::RwLock<T>);

impl<T> RwLock<T> {
    /// As in `parking_lot`.
    pub const fn new(value: T) -> Self {
        Self(over::RwLock::new(value))
    }

    /// As in `parking_lot`.
    pub fn read(&self) -> over::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As in `parking_lot`.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `parking_lot::WaitTimeoutResult`.
#[derive(Clone, Copy, Debug)]
pub struct WaitTimeoutResult(());

impl WaitTimeoutResult {
    /// No time passes in a model.
    pub const fn timed_out(self) -> bool {
        false
    }
}

/// `parking_lot::Condvar`, to be compiled and not to be used: no time passes in a model, so that models wait with futures.
#[derive(Debug, Default)]
pub struct Condvar(());

impl Condvar {
    /// As in `parking_lot`.
    pub const fn new() -> Self {
        Self(())
    }

    /// As in `parking_lot`.
    ///
    /// # Panics
    /// Always.
    pub fn wait_for<T>(&self, _guard: &mut MutexGuard<'_, T>, _timeout: Duration) -> WaitTimeoutResult {
        panic!("models wait with futures, not with threads");
    }

    /// As in `parking_lot`.
    ///
    /// # Panics
    /// Always.
    pub fn wait_while_for<T>(
        &self,
        _guard: &mut MutexGuard<'_, T>,
        _condition: impl FnMut(&mut T) -> bool,
        _timeout: Duration,
    ) {
        panic!("models wait with futures, not with threads");
    }

    /// Nobody waits.
    pub const fn notify_one(&self) {}

    /// Nobody waits.
    pub const fn notify_all(&self) {}
}
