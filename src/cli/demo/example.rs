//! The worked example's files, as they stand in `migrations/` and `backfills/`.

/// A file's name and text.
type File = (&'static str, &'static str);

macro_rules! files {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../", $folder, "/", $name)))),+]
    };
}

/// The revisions.
pub(super) const MIGRATIONS: &[File] = files!("migrations":
    "20260105090000_3f1a_create_skills.sql",
    "20260105091000_7c42_index_category.sql",
    "20260112100000_a95e_add_governance.sql",
    "20260112101000_b1d7_guard_governance.sql",
    "20260112102000_c2e9_fill_governance.sql",
    "20260112103000_d40f_require_governance.sql",
    "20260119090000_e6b3_add_tier.sql",
    "20260119091000_f2a8_fill_tier.sql",
    "20260119092000_0c5d_require_tier.sql",
    "20260126090000_1b7e_expand_skill_category.sql",
    "20260126091000_29f4_fill_skill_category.sql",
    "20260126092000_3e81_index_skill_category.sql",
    "20260126093000_4d96_require_skill_category.sql",
    "20260202090000_5a2c_release_legacy_rank.sql",
    "20260209090000_6b13_drop_category.sql",
    "20260209091000_7f58_drop_legacy_rank.sql",
);

/// The specs.
pub(super) const SPECS: &[File] = files!("backfills":
    "governance_phases.toml",
    "double_quota.toml",
    "category_owner.toml",
    "tier.toml",
    "skill_category.toml",
);
