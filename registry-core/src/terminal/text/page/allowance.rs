//! What edits may cost.

/// How much work edits may make, in cells touched. A few bytes can make and drop hundreds of lines, or move all cells of
/// one, over and over; output earns work with its length, and ordinary programs never come near the end of what they
/// have. An edit beyond it is passed over.
#[derive(Debug)]
pub(super) struct Allowance(pub(super) usize);

impl Allowance {
    /// What there is in the beginning, and the most that is saved up: some milliseconds.
    pub(super) const MAX: usize = 1024 * 1024;
    /// What a byte earns.
    const CELLS_A_BYTE: usize = 16;
    /// What making a row costs, and dropping it.
    const ROW_CELLS: usize = 64;

    pub(super) fn earn(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(bytes.saturating_mul(Self::CELLS_A_BYTE)).min(Self::MAX);
    }

    pub(super) fn spend(&mut self, cells: usize) -> bool {
        let enough = cells <= self.0;
        if enough {
            self.0 -= cells;
        }
        enough
    }

    /// As many rows as may be made, of `count`.
    pub(super) fn rows(&mut self, count: usize) -> usize {
        let count = count.min(self.0 / Self::ROW_CELLS);
        self.0 -= count * Self::ROW_CELLS;
        count
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self(Self::MAX)
    }
}
