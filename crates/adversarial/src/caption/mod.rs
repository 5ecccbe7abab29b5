//! Attacks on image captioning: images that make a model write what an attacker wants.
//!
//! | to | take |
//! |---|---|
//! | make a model that writes captions something to attack | [`RecordedCaptioner`], your own [`Captioner`] |
//! | make it write a caption, keywords, or avoid words | [`ShowAndFool`] with [`CaptionGoal`]s |
//! | have a small captioner, and train it or your own | [`ShowAndTell`], [`TeacherForcing`] |

mod captioner;
mod goal;
#[cfg(test)]
mod laws;
mod loss;
mod recorded;
mod show_and_fool;
mod show_and_tell;
mod tanh_box;
mod teacher_forcing;
mod vocabulary;
mod walk;

pub use captioner::{Captioner, PulledCaptions};
pub use goal::CaptionGoal;
pub use loss::CaptionLoss;
pub use recorded::RecordedCaptioner;
pub use show_and_fool::{AttackedCaptions, CaptionOutcome, ShowAndFool};
pub use show_and_tell::{ShowAndTell, ShowAndTellShape};
pub use teacher_forcing::TeacherForcing;
pub use vocabulary::Vocabulary;
