//! The box of the pixels as all of a space, by tanh.

/// `x = m + h·tanh(w)`, where `[m − h, m + h]` is the box and a margin around it, so that a pixel at a bound can move too: without
/// the margin its `w` were infinite and its slope zero. `w` is kept where `x` is in the box itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TanhBox {
    middle: f64,
    half: f64,
    low: f32,
    high: f32,
}

/// The margin on each side, as a share of half the box.
const MARGIN: f64 = 0.05;

impl TanhBox {
    pub fn new([low, high]: [f64; 2]) -> Self {
        let half = (1.0 + MARGIN) * (high - low) / 2.0;
        Self { middle: f64::midpoint(low, high), half, low: low as f32, high: high as f32 }
    }

    /// `w` of a pixel in the box.
    pub fn enter(&self, x: f32) -> f32 {
        ((f64::from(x) - self.middle) / self.half).atanh() as f32
    }

    /// The pixel of `w`, in the box after rounding too.
    pub fn leave(&self, w: f32) -> f32 {
        ((self.middle + self.half * f64::from(w).tanh()) as f32).clamp(self.low, self.high)
    }

    /// `∂x/∂w`.
    pub fn slope(&self, w: f32) -> f64 {
        self.half * (1.0 - f64::from(w).tanh().powi(2))
    }

    /// Brings `w` back to where `x` is in the box.
    pub fn clamp(&self, w: &mut [f32]) {
        let (low, high) = (self.enter(self.low), self.enter(self.high));
        w.iter_mut().for_each(|w| *w = w.clamp(low, high));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pixels_stay_in_the_box_and_can_all_move(low in -3f64..3.0, side in 0.1f64..300.0, share in 0f64..=1.0, far in -50f32..50.0) {
            let space = TanhBox::new([low, low + side]);
            let x = ((low + share * side) as f32).clamp(space.low, space.high);
            let w = space.enter(x);
            prop_assert!(w.is_finite());
            prop_assert!(f64::from(space.leave(w) - x).abs() < 2e-6 * (side + low.abs()));
            // At a bound a tenth of what it is in the middle, not nothing.
            prop_assert!(space.slope(w) > 0.09 * space.half);
            let mut far = [far];
            space.clamp(&mut far);
            prop_assert!(space.slope(far[0]) > 0.09 * space.half);
            prop_assert!((space.low..=space.high).contains(&space.leave(far[0])));
        }
    }
}
