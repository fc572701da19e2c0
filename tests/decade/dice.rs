//! Chance that can be repeated (splitmix64).

pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` on, below `high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.within(0, 100) < percent
    }

    pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut dice = Self(seed);
        std::iter::repeat_with(|| dice.next().to_le_bytes()).flatten().take(bytes).collect()
    }
}

/// `LIFEBOAT_SEED`, or one of this run's own.
pub fn seed() -> u64 {
    let given = std::env::var("LIFEBOAT_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = given.unwrap_or_else(|| {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).expect("random bytes");
        u64::from(u32::from_le_bytes(bytes))
    });
    eprintln!("LIFEBOAT_SEED={seed}");
    seed
}
