//! How sure one can be of a share, or of a mean.

use serde::{Deserialize, Serialize};

/// An estimate and where the truth lies with the confidence that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Count, mean and spread of numbers that are seen one at a time.
///
/// B. P. Welford, "Note on a method for calculating corrected sums of squares and products",
/// Technometrics 4 (1962): sums of squares would lose their digits where the spread is small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Their mean; 0 when there are none.
    #[serde(with = "crate::exact")]
    pub mean: f64,
    /// Sum of squared distances from the mean.
    #[serde(with = "crate::exact")]
    spread: f64,
}

impl Tally {
    /// Counts a number, which is finite.
    pub fn add(&mut self, number: f64) {
        self.count += 1;
        let before = number - self.mean;
        self.mean += before / self.count as f64;
        self.spread += before * (number - self.mean);
    }

    /// The sample variance; 0 for fewer than two.
    #[must_use]
    pub fn variance(&self) -> f64 {
        match self.count {
            0 | 1 => 0.0,
            count => (self.spread / (count - 1) as f64).max(0.0),
        }
    }
}

impl FromIterator<f64> for Tally {
    fn from_iter<T: IntoIterator<Item = f64>>(numbers: T) -> Self {
        let mut tally = Self::default();
        numbers.into_iter().for_each(|number| tally.add(number));
        tally
    }
}

/// The share of successes among `of` trials.
///
/// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
/// (1927): stays within 0 and 1, and says something true even after a handful of trials or when
/// all went one way. Without trials it is all of 0 to 1.
#[must_use]
pub fn wilson(successes: u64, of: u64, confidence: f64) -> Interval {
    if of == 0 {
        return Interval {
            mean: 0.5,
            low: 0.0,
            high: 1.0,
        };
    }
    let (share, of) = (successes as f64 / of as f64, of as f64);
    let z = quantile(f64::midpoint(1.0, confidence));
    let weight = 1.0 + z * z / of;
    let centre = (share + z * z / (2.0 * of)) / weight;
    let half = z / weight * (share * (1.0 - share) / of + z * z / (4.0 * of * of)).sqrt();
    Interval {
        mean: share,
        low: (centre - half).max(0.0),
        high: (centre + half).min(1.0),
    }
}

/// The mean of numbers of any scale, by Student's t distribution: exact for normal numbers, near
/// enough for others once there are some dozens. `None` for fewer than three.
#[must_use]
pub fn student(tally: &Tally, confidence: f64) -> Option<Interval> {
    if tally.count < 3 {
        return None;
    }
    let t = student_quantile(f64::midpoint(1.0, confidence), (tally.count - 1) as f64);
    let half = t * (tally.variance() / tally.count as f64).sqrt();
    Some(Interval {
        mean: tally.mean,
        low: tally.mean - half,
        high: tally.mean + half,
    })
}

/// The mean of numbers between `range`'s ends, whatever their distribution.
///
/// The empirical Bernstein bound: A. Maurer and M. Pontil, "Empirical Bernstein bounds and
/// sample-variance penalization", COLT 2009, theorem 4, for both sides. `None` for fewer than two,
/// or an empty range.
#[must_use]
pub fn bernstein(tally: &Tally, range: (f64, f64), confidence: f64) -> Option<Interval> {
    let width = range.1 - range.0;
    if tally.count < 2 || width <= 0.0 {
        return None;
    }
    let count = tally.count as f64;
    // Half of the error for each side, and the bound itself has a 2 in its logarithm.
    let log = (4.0 / (1.0 - confidence)).ln();
    let half =
        (2.0 * tally.variance() * log / count).sqrt() + 7.0 * width * log / (3.0 * (count - 1.0));
    Some(Interval {
        mean: tally.mean,
        low: (tally.mean - half).max(range.0),
        high: (tally.mean + half).min(range.1),
    })
}

/// Where the normal distribution has so much of itself below.
///
/// P. J. Acklam's rational approximation (2003), relative error below 1.2e-9.
#[must_use]
pub fn quantile(share: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
    ];
    /// A polynomial, its highest coefficient first.
    fn at(x: f64, coefficients: &[f64]) -> f64 {
        coefficients.iter().fold(0.0, |sum, next| sum * x + next)
    }
    let tail = |share: f64| {
        let q = (-2.0 * share.ln()).sqrt();
        at(q, &C) / (at(q, &D) * q + 1.0)
    };
    if share < 0.02425 {
        tail(share)
    } else if share <= 1.0 - 0.02425 {
        let q = share - 0.5;
        at(q * q, &A) * q / (at(q * q, &B) * q * q + 1.0)
    } else {
        -tail(1.0 - share)
    }
}

/// How much of the normal distribution lies below `x`, to 1.2e-7.
///
/// W. H. Press and others, "Numerical Recipes" (1992), section 6.2: Chebyshev fit of the
/// complementary error function.
#[must_use]
pub fn normal_below(x: f64) -> f64 {
    const FIT: [f64; 10] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
        -1.265_512_23,
    ];
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let fit = FIT.iter().fold(0.0, |sum, next| sum * t + next);
    let tail = 0.5 * t * (-z * z + fit).exp();
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// The same for Student's t with `freedom` degrees: M. Abramowitz and I. A. Stegun, "Handbook of
/// mathematical functions" (1964), 26.7.5; within 1 % from three degrees on at 95 %.
fn student_quantile(share: f64, freedom: f64) -> f64 {
    let z = quantile(share);
    let (z3, z5, z7, z9) = (z.powi(3), z.powi(5), z.powi(7), z.powi(9));
    z + (z3 + z) / (4.0 * freedom)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * freedom.powi(2))
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * freedom.powi(3))
        + (79.0 * z9 + 776.0 * z7 + 1_482.0 * z5 - 1_920.0 * z3 - 945.0 * z)
            / (92_160.0 * freedom.powi(4))
}

#[cfg(test)]
mod tests {
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn near(left: f64, right: f64, by: f64) {
        assert!((left - right).abs() <= by, "{left} is not {right}");
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (share, z) in [
            (0.5, 0.0),
            (0.975, 1.959_964),
            (0.999, 3.090_232),
            (0.001, -3.090_232),
        ] {
            near(quantile(share), z, 1e-6);
            near(normal_below(z), share, 2e-7);
        }
        for (freedom, t) in [(3.0, 3.182), (7.0, 2.365), (30.0, 2.042), (1e6, 1.960)] {
            near(student_quantile(0.975, freedom), t, 0.01 * t);
        }
    }

    #[test]
    fn wilson_is_as_published() {
        // R. G. Newcombe, "Two-sided confidence intervals for the single proportion" (1998).
        for (successes, of, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let interval = wilson(successes, of, 0.95);
            near(interval.low, low, 6e-5);
            near(interval.high, high, 6e-5);
        }
    }

    #[test]
    fn a_tally_is_the_mean_and_the_variance_even_far_from_zero() {
        let tally: Tally = [4.0, 7.0, 13.0, 16.0]
            .map(|x| x + 1e9)
            .into_iter()
            .collect();
        near(tally.mean, 1e9 + 10.0, 1e-6);
        near(tally.variance(), 30.0, 1e-6);
    }

    /// How often the interval of `count` draws holds the truth, of 2,000.
    fn covered(seed: u64, count: u64, truth: f64, interval: impl Fn(&Tally) -> Interval) -> f64 {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let holds = |_: &u32| {
            // Two of three draws are small: skewed, and within 0 and 1.
            let mut draw = || {
                if random.random_bool(2.0 / 3.0) {
                    0.1
                } else {
                    0.7
                }
            };
            let tally: Tally = (0..count).map(|_| draw()).collect();
            let interval = interval(&tally);
            (interval.low..=interval.high).contains(&truth)
        };
        (0..2_000).filter(holds).count() as f64 / 2_000.0
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let student = covered(1, 40, 0.3, |tally| student(tally, 0.95).expect("some"));
        let bernstein = covered(2, 40, 0.3, |t| {
            bernstein(t, (0.0, 1.0), 0.95).expect("some")
        });
        println!("of 95 %: t {student}, Bernstein {bernstein}");
        assert!((0.92..0.98).contains(&student) && 0.95 <= bernstein);
    }
}
