package engines

// The modes and other groups of the table, in its order.
const (
	redirect  = "redirect"
	listen    = "listen"
	host      = "host"
	link      = "link"
	lifeCycle = "all"
)

// Features are the rows of the table, by group.
var Features = []Feature{
	{Mode: redirect, Name: "default bridge", Tests: []string{"e2e.TestNetworks/default_bridge"}},
	{Mode: redirect, Name: "user network, with the engine's DNS", Tests: []string{"e2e.TestNetworks/user_network"}},
	{Mode: redirect, Name: "`--internal` network", Tests: []string{"e2e.TestNetworks/internal_network"}},
	{Mode: redirect, Name: "`--network none`", Tests: []string{"e2e.TestNetworks/no_network"}},
	{Mode: redirect, Name: "`::1`", Tests: []string{"e2e.TestNetworks/IPv6_loopback"}},
	{Mode: redirect, Name: "`--network container:X`", Tests: []string{"e2e.TestJoinedNetwork", "e2e.TestSharedNamespaceDeclaredTwice"}},
	{Mode: redirect, Name: "one that joins dials in its first instruction", Tests: []string{"e2e.TestFirstInstructionOfAJoiner", "e2e.TestFirstInstructionOfAJoinerThatStartsAgain"}},
	{Mode: redirect, Name: "one that joined a container which was started again", Tests: []string{"e2e.TestJoinersThatAreLeftBehind"}},
	{Mode: redirect, Name: "`refuse=early`", Tests: []string{"e2e.TestRefuseEarly"}},
	{Mode: redirect, Name: "declared by label, by environment, by the image", Tests: []string{"e2e.TestDeclarations", "e2e.TestImageDeclarationsCanBeSwitchedOff"}},
	{Mode: redirect, Name: "the first instruction dials", Tests: []string{"e2e.TestFirstInstruction", "e2e.TestFirstInstructionAfterRestart"}},
	{Mode: redirect, Name: "the first instruction dials, of twelve that start at once on a busy host", Tests: []string{"e2e.TestFirstInstructionUnderLoad"}},
	{Mode: redirect, Name: "the first instruction dials a port never declared before", Tests: []string{"e2e.TestFirstInstructionOfAnUnknown"}},
	{Mode: redirect, Name: "a container dials what it serves itself", Tests: []string{"e2e.TestFirstInstructionOfAServer"}},
	{Mode: redirect, Name: "rules that somebody flushes come back", Tests: []string{"e2e.TestRepair/redirect"}},
	{Mode: redirect, Name: "rules come and go with the daemon, and after `kill -9`", Tests: []string{"e2e.TestRulesComeAndGoWithTheDaemon", "e2e.TestRulesAfterKill", "e2e.TestKeepRules"}},
	{Mode: redirect, Name: "networks are connected and disconnected", Tests: []string{"e2e.TestNetworkConnect"}},
	{Mode: redirect, Name: "containers come and go, names and addresses change hands", Tests: []string{"e2e.TestChurn"}},
	{Mode: redirect, Name: "least privileges", Tests: []string{
		"e2e.TestLeastPrivileges/redirect_by_the_engine's_folder", "e2e.TestLeastPrivileges/redirect_through_proc"}},
	{Mode: redirect, Name: "`rules plan`, `show`, `apply`", Tests: []string{"e2e.TestRulesShow", "e2e.TestRulesApply"}},
	{Mode: redirect, Name: "`--rules nft`, without any iptables program", Tests: []string{"e2e.TestWithoutIptables"}},

	{Mode: listen, Name: "without any rule", Tests: []string{"e2e.TestListenMode"}},
	{Mode: listen, Name: "least privileges", Tests: []string{
		"e2e.TestLeastPrivileges/listen_by_the_engine's_folder", "e2e.TestLeastPrivileges/listen_through_proc"}},

	{Mode: host, Name: "the fixed address, IPv4 and IPv6, and nothing left behind", Tests: []string{"e2e.TestHost"}},
	{Mode: host, Name: "an address that the host has already", Tests: []string{"e2e.TestHostAddressOfAnother"}},
	{Mode: host, Name: "after `kill -9`", Tests: []string{"e2e.TestHostAfterKill"}},
	{Mode: host, Name: "who the client is, proven", Tests: []string{"e2e.TestHostProven", "e2e.TestHostForgery"}},
	{Mode: host, Name: "networks are connected and disconnected", Tests: []string{"e2e.TestHostNetworkConnect"}},
	{Mode: host, Name: "rules that somebody flushes come back", Tests: []string{"e2e.TestHostRepairedOnEvents"}},
	{Mode: host, Name: "least privileges", Tests: []string{
		"e2e.TestLeastPrivileges/host", "e2e.TestGuardPrivileges/host_by_the_engine's_folder", "e2e.TestGuardPrivileges/host_through_proc"}},
	{Mode: host, Name: "`rules plan`, `show`, `apply`", Tests: []string{"e2e.TestRulesHost", "e2e.TestRulesApplyHost"}},
	{Mode: host, Name: "`--rules nft`, without any iptables program", Tests: []string{"e2e.TestHostWithoutIptables"}},

	{Mode: link, Name: "default bridge and user networks", Tests: []string{"e2e.TestLinkNetworks"}},
	{Mode: link, Name: "the first ambassadord's commands", Tests: []string{"e2e.TestOmnimode", "e2e.TestImageCommandLines/TARGET", "e2e.TestImageCommandLines/PORT"}},
	{Mode: link, Name: "`--links` by the engine", Tests: []string{"e2e.TestImageCommandLines/links_by_the_engine"}},
	{Mode: link, Name: "`--links` by variables", Tests: []string{"e2e.TestImageCommandLines/links_by_variables"}, Not: map[string]string{
		"29":     "the engine sets none any more; it is asked instead",
		"29-nft": "the engine sets none any more; it is asked instead",
	}},
	{Mode: link, Name: "who the client is, proven", Tests: []string{"e2e.TestLinkForgery", "e2e.TestLinkAddressReused"}},
	{Mode: link, Name: "containers come and go, addresses change hands", Tests: []string{"e2e.TestLinkChurn"}},
	{Mode: link, Name: "least privileges", Tests: []string{"e2e.TestLeastPrivileges/link", "e2e.TestGuardPrivileges/link"}},
	{Mode: link, Name: "`rules apply`", Tests: []string{"e2e.TestRulesApplyLink"}},
	{Mode: link, Name: "`--rules nft`, without any iptables program", Tests: []string{"e2e.TestLinkWithoutIptables"}},

	{Mode: lifeCycle, Name: "containers are paused, renamed, restarted", Tests: []string{
		"e2e.TestPause", "e2e.TestRename", "e2e.TestRestartUnderConnection", "e2e.TestContainerRestarts"}},
	{Mode: lifeCycle, Name: "the engine restarts, with live-restore", Tests: []string{"e2e.TestEngineRestart"}},
	{Mode: lifeCycle, Name: "the engine restarts, without live-restore", Tests: []string{"e2e.TestEngineRestartsItsContainers"}},
	{Mode: lifeCycle, Name: "`docker://` targets", Tests: []string{"docker.TestEngineConformance", "docker.TestEngineAnswers", "e2e.TestBackendMoves"}},
	{Mode: lifeCycle, Name: "what the engine says of containers, health, networks", Tests: []string{
		"dockerd.TestEngineLifeOfAContainer", "dockerd.TestEngineHealth", "dockerd.TestEngineCommitsAHealthyOne", "dockerd.TestEngineNetworks", "dockerd.TestEngineSelf"}},
	{Mode: lifeCycle, Name: "takeover by another daemon", Tests: []string{"e2e.TestTakeovers"}},
	{Mode: lifeCycle, Name: "from rules by iptables to rules by netlink, and back", Tests: []string{"e2e.TestChangingRulesOver"}},
	{Mode: lifeCycle, Name: "connections go on after `kill -9`, beside the next daemon and without", Tests: []string{
		"e2e.TestCarriedBesideTheNextStop", "e2e.TestCarriedBesideRulesRemove", "e2e.TestCarriedOutOfSight",
		"e2e.TestCarriedRulesRemovedByForce", "e2e.TestCarriedByTwo", "e2e.TestCarryingKeeperIsKilled",
		"e2e.TestCarriedAcrossATakeover", "e2e.TestCarriedWithoutRules"}},
	{Mode: lifeCycle, Name: "Compose v5: service names, `network_mode: service:X`, links", Tests: []string{"e2e.TestCompose"}},
	{Mode: lifeCycle, Name: "Swarm: `swarm://` and `docker://` reach tasks, also during an update; what the host has no way to is not dialled", Tests: []string{"e2e.TestSwarm"}, Not: map[string]string{
		"29-nft": "the engine refuses to be in a swarm with its firewall backend nftables",
	}},
	{Mode: lifeCycle, Name: "gVisor (runsc): told of in mode redirect, served in mode host", Tests: []string{"e2e.TestNetworkStackOfItsOwn"}},
	{Mode: lifeCycle, Name: "containers do not reach what is the host's", Tests: []string{"e2e.TestContainersDoNotReachWhatIsTheHosts"}},
	{Mode: lifeCycle, Name: "`doctor`", Tests: []string{"e2e.TestDoctorOnThisHost"}},
}
