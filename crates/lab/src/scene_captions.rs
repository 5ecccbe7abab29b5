//! Drawn scenes with captions: one or two things on a ground, as in "a small red circle above a large blue square on grass".

use core_tensor::Random;

/// Height and width of an image.
pub const SIDE: usize = 32;

/// Values of an image, `[3, SIDE, SIDE]`.
pub const VALUES: usize = 3 * SIDE * SIDE;

/// The words of the captions, and the full stop that ends them.
pub const WORDS: [&str; 22] = [
    "a", "small", "large", "red", "blue", "green", "yellow", "circle", "square", "triangle", "cross", "above", "below",
    "left", "right", "of", "on", "at", "grass", "sand", "night", ".",
];

/// Most words of a caption.
pub const MOST_WORDS: usize = 12;

const SIZES: [&str; 2] = ["small", "large"];
const COLOURS: [(&str, [f64; 3]); 4] = [
    ("red", [0.85, 0.1, 0.1]),
    ("blue", [0.15, 0.3, 0.95]),
    ("green", [0.1, 0.75, 0.2]),
    ("yellow", [0.95, 0.85, 0.1]),
];
const SHAPES: [&str; 4] = ["circle", "square", "triangle", "cross"];
const GROUNDS: [(&str, [f64; 3]); 3] =
    [("on grass", [0.3, 0.42, 0.18]), ("on sand", [0.8, 0.7, 0.52]), ("at night", [0.06, 0.06, 0.16])];

/// One of four shapes, in one of four colours, small or large.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Thing {
    size: usize,
    colour: usize,
    shape: usize,
    /// Column and row of its middle.
    middle: [f64; 2],
    radius: f64,
}

/// One or two things on a ground.
///
/// ```
/// use core_tensor::Random;
/// use lab::scene_captions::{MOST_WORDS, Scene, VALUES, WORDS};
///
/// let mut random = Random::new(7);
/// let scene = Scene::draw(&mut random);
/// let caption = scene.caption();
/// assert!(caption.split(' ').all(|word| WORDS.contains(&word)) && caption.split(' ').count() <= MOST_WORDS);
/// assert_eq!(scene.paint(&mut random).len(), VALUES);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    things: Vec<Thing>,
    ground: usize,
}

/// Images, one after the other, and their captions.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenes {
    /// Values from 0 to 1, `[3, SIDE, SIDE]` each.
    pub images: Vec<f32>,
    /// What is on them.
    pub captions: Vec<String>,
}

impl Scenes {
    /// So many scenes.
    pub fn draw(count: usize, random: &mut Random) -> Self {
        let mut scenes = Self { images: Vec::with_capacity(count * VALUES), captions: Vec::with_capacity(count) };
        for _ in 0..count {
            let scene = Scene::draw(random);
            scenes.images.extend(scene.paint(random));
            scenes.captions.push(scene.caption());
        }
        scenes
    }
}

impl Scene {
    /// Any scene: one thing anywhere in one of four, else two of them above each other or beside each other.
    pub fn draw(random: &mut Random) -> Self {
        let mut thing = || {
            let [size, colour, shape] = [2, 4, 4].map(|count| random.below(count) as usize);
            let radius = if size == 0 { between(random, 4.4, 5.2) } else { between(random, 6.8, 7.4) };
            Thing { size, colour, shape, middle: [0.0; 2], radius }
        };
        let mut things = vec![thing(), thing()];
        let ground = random.below(3) as usize;
        let half = SIDE as f64 / 2.0;
        if random.below(4) == 0 {
            things.pop();
            let room = half - things[0].radius - 1.0;
            things[0].middle = [0, 1].map(|_| half + between(random, -room, room));
        } else {
            let along = random.below(2) as usize;
            for (thing, side) in things.iter_mut().zip([-1.0, 1.0]) {
                thing.middle[along] = half + side * between(random, 7.6, 8.6);
                thing.middle[1 - along] = half + between(random, -3.0, 3.0);
            }
            if random.below(2) == 0 {
                things.swap(0, 1);
            }
        }
        Self { things, ground }
    }

    /// What is on it. Of two things the smaller is named first, of equals the one that is above or on the left.
    pub fn caption(&self) -> String {
        let name =
            |thing: &Thing| format!("a {} {} {}", SIZES[thing.size], COLOURS[thing.colour].0, SHAPES[thing.shape]);
        let ground = GROUNDS[self.ground].0;
        let [first, second] = match self.things[..] {
            [only] => return format!("{} {ground}", name(&only)),
            [a, b] if a.size < b.size || a.size == b.size && before(&a, &b) => [a, b],
            [a, b] => [b, a],
            _ => unreachable!("a scene has one or two things"),
        };
        let relation = match (beside(&first, &second), before(&first, &second)) {
            (true, true) => "left of",
            (true, false) => "right of",
            (false, true) => "above",
            (false, false) => "below",
        };
        format!("{} {relation} {} {ground}", name(&first), name(&second))
    }

    /// Draws it, with light and grain of its own.
    pub fn paint(&self, random: &mut Random) -> Vec<f32> {
        let light = between(random, 0.9, 1.1);
        let ground = GROUNDS[self.ground].1;
        let mut image = vec![0.0; VALUES];
        for (pixel, (row, column)) in (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column))).enumerate() {
            let grain = between(random, -0.05, 0.05);
            let mut colour = ground.map(|value| value + grain);
            if self.ground == 2 && random.below(40) == 0 {
                colour = [0.8 + grain; 3]; // A star.
            }
            for thing in &self.things {
                let share = thing.covers(row, column);
                let ink = COLOURS[thing.colour].1;
                colour = [0, 1, 2].map(|c| (1.0 - share) * colour[c] + share * (ink[c] + 0.4 * grain));
            }
            for (channel, value) in colour.into_iter().enumerate() {
                image[channel * SIDE * SIDE + pixel] = (light * value).clamp(0.0, 1.0) as f32;
            }
        }
        image
    }
}

impl Thing {
    /// Share of a pixel that it covers, from nine points of it.
    fn covers(&self, row: usize, column: usize) -> f64 {
        let [x, y] = [column as f64 + 0.5 - self.middle[0], row as f64 + 0.5 - self.middle[1]];
        if x.abs().max(y.abs()) > self.radius + 1.0 {
            return 0.0;
        }
        let points = [-1.0, 0.0, 1.0].map(|step| step / 3.0);
        let inside = points.iter().flat_map(|dx| points.iter().map(move |dy| (x + dx, y + dy)));
        inside.filter(|(x, y)| self.holds(*x, *y)).count() as f64 / 9.0
    }

    /// Whether a point from its middle is in it; `y` runs down.
    fn holds(&self, x: f64, y: f64) -> bool {
        let r = self.radius;
        match SHAPES[self.shape] {
            "circle" => x * x + y * y <= r * r,
            "square" => x.abs().max(y.abs()) <= 0.88 * r,
            "triangle" => y <= 0.8 * r && x.abs() <= (y + r) / 1.8,
            _ => x.abs().min(y.abs()) <= 0.33 * r && x.abs().max(y.abs()) <= r,
        }
    }
}

/// Whether two things are apart in columns more than in rows.
fn beside(a: &Thing, b: &Thing) -> bool {
    (a.middle[0] - b.middle[0]).abs() > (a.middle[1] - b.middle[1]).abs()
}

/// Whether a thing is left of another that is beside it, or above another.
fn before(a: &Thing, b: &Thing) -> bool {
    let along = usize::from(!beside(a, b));
    a.middle[along] < b.middle[along]
}

fn between(random: &mut Random, low: f64, high: f64) -> f64 {
    low + (high - low) * random.next_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(size: usize, colour: usize, shape: usize, middle: [f64; 2]) -> Thing {
        Thing { size, colour, shape, middle, radius: [4.0, 7.0][size] }
    }

    #[test]
    fn captions_say_what_is_there() {
        let (ball, box_) = (thing(0, 0, 0, [16.0, 8.0]), thing(1, 1, 1, [15.0, 24.0]));
        let caption = |things: &[Thing], ground| Scene { things: things.to_vec(), ground }.caption();
        assert_eq!(caption(&[box_, ball], 0), "a small red circle above a large blue square on grass");
        let below = Thing { middle: [16.0, 31.0], ..ball };
        assert_eq!(caption(&[box_, below], 1), "a small red circle below a large blue square on sand");
        let beside = Thing { middle: [30.0, 22.0], ..box_ };
        assert_eq!(caption(&[beside, box_], 2), "a large blue square left of a large blue square at night");
        let right = Thing { middle: [30.0, 22.0], ..ball };
        assert_eq!(caption(&[right, box_], 2), "a small red circle right of a large blue square at night");
        assert_eq!(caption(&[ball], 2), "a small red circle at night");
    }

    #[test]
    fn things_are_where_and_what_they_are_said_to_be() {
        let scene = Scene { things: vec![thing(1, 0, 1, [8.0, 8.0]), thing(0, 1, 3, [24.0, 24.0])], ground: 1 };
        let image = scene.paint(&mut Random::new(1));
        let at = |row: usize, column: usize| [0, 1, 2].map(|c| image[(c * SIDE + row) * SIDE + column]);
        let near = |a: [f32; 3], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 0.16);
        assert!(near(at(8, 8), COLOURS[0].1) && near(at(3, 3), COLOURS[0].1));
        assert!(near(at(24, 24), COLOURS[1].1) && near(at(24, 27), COLOURS[1].1));
        // Between the arms of the cross, and away from both.
        assert!(near(at(21, 21), GROUNDS[1].1) && near(at(2, 29), GROUNDS[1].1));
    }

    #[test]
    fn seeds_decide_and_all_words_come_up() {
        let scenes = Scenes::draw(300, &mut Random::new(4));
        assert_eq!(scenes, Scenes::draw(300, &mut Random::new(4)));
        assert!(scenes.images.iter().all(|x| (0.0..=1.0).contains(x)));
        let text = scenes.captions.join(" ");
        let said: std::collections::HashSet<&str> = text.split(' ').collect();
        assert_eq!(said.len(), WORDS.len() - 1);
        let lengths: Vec<usize> = scenes.captions.iter().map(|caption| caption.split(' ').count()).collect();
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&6), Some(&MOST_WORDS)));
    }
}
