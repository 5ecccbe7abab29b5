//! Adam on the host, for perturbations that are trained.

/// D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, arXiv:1412.6980, algorithm 1.
pub(crate) struct Adam {
    rate: f64,
    step: i32,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Adam {
    pub fn new(rate: f64, length: usize) -> Self {
        Self { rate, step: 0, first: vec![0.0; length], second: vec![0.0; length] }
    }

    /// Sets the learning rate of the next steps.
    pub fn set_rate(&mut self, rate: f64) {
        self.rate = rate;
    }

    /// Moves against the gradient.
    pub fn descend(&mut self, x: &mut [f32], gradient: &[f64]) {
        self.step += 1;
        let [c1, c2] = [0.9f64, 0.999].map(|beta| 1.0 - beta.powi(self.step));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((x, g), (m, v)) in x.iter_mut().zip(gradient).zip(moments) {
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            *x = (f64::from(*x) - self.rate * (*m / c1) / ((*v / c2).sqrt() + 1e-8)) as f32;
        }
    }
}
