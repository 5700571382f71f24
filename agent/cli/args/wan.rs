//! The command line of `netbuild wan`.

use clap::Subcommand;
use netbuild_core::wan::{LinkSpec, PROFILES, SiteSpec};
use netbuild_wan::DEFAULT_NAME;

/// The sites when nobody says: the three regions of the profiles.
pub(crate) const DEFAULT_SITES: [&str; 3] = ["us-east", "us-west", "eu-central"];

#[derive(Debug, Subcommand)]
pub(crate) enum WanCommand {
    /// Make sites, network namespaces called NAME-SITE, and emulate the links between them
    Up(WanUpArgs),
    /// Change the profile of links while they are up
    Set(WanSetArgs),
    /// Show what each direction of each link does and has done
    Status(WanStatusArgs),
    /// Run a command in the network of a site
    Exec(WanExecArgs),
    /// End the emulation, and remove its sites
    Down(WanNameArgs),
    /// List the profiles
    Profiles,
}

/// Which emulation.
#[derive(Debug, clap::Args)]
pub(crate) struct WanNameArgs {
    /// The emulation, when there are several
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME)]
    pub(crate) name: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "A link has the worse of the profiles of its two sites. \
                        Needs root, /dev/net/tun and the command `ip`. IPv4 only.")]
pub(crate) struct WanUpArgs {
    /// A site; repeatable. Its profile is that of its name, or else `datacenter`; its addresses
    /// are 10.77.N.0/24 [default: us-east, us-west, eu-central]
    #[arg(long = "site", value_name = "SITE[=PREFIX][=PROFILE]")]
    pub(crate) sites: Vec<SiteSpec>,
    /// The profile of one link; repeatable
    #[arg(long = "link", value_name = "A:B=PROFILE")]
    pub(crate) links: Vec<LinkSpec>,
    /// Route between real networks in this network namespace, and make none; every site needs
    /// its PREFIX
    #[arg(long, requires = "sites")]
    pub(crate) router: bool,
    /// Decides which packets are lost and how profiles vary
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Go on in the background once packets pass
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) which: WanNameArgs,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("to").required(true))]
pub(crate) struct WanSetArgs {
    /// All links of a site, the link between two, or `all`
    #[arg(value_name = "SITE|A:B|all", default_value = "all")]
    pub(crate) target: String,
    /// The new profile
    #[arg(long, value_name = "PROFILE", group = "to", value_parser = profile_names())]
    pub(crate) profile: Option<String>,
    /// Back to what the links began with
    #[arg(long, group = "to")]
    pub(crate) reset: bool,
    #[command(flatten)]
    pub(crate) which: WanNameArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WanStatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) which: WanNameArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WanExecArgs {
    #[command(flatten)]
    pub(crate) which: WanNameArgs,
    /// The site
    #[arg(value_name = "SITE")]
    pub(crate) site: String,
    /// The command with its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

fn profile_names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(PROFILES.iter().map(|profile| profile.name))
}
