/* SPDX-License-Identifier: BSD-3-Clause
 * lunette: the command line client of lunetted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loop/loop.h"
#include "lunette/cli.h"

struct command {
	const char *name, *args, *help;
	int (*run)(struct cli *c, int argc, char **argv);
};

static int cmd_bench(struct cli *c, int argc, char **argv);
static int cmd_check(struct cli *c, int argc, char **argv);
static int cmd_version(struct cli *c, int argc, char **argv);
static int cmd_help(struct cli *c, int argc, char **argv);

static const struct command commands[] = {
	{ "status", "", "The daemon, its portals, targets and LUNs.", cmd_status },
	{ "sessions", "[kick ID]", "Who is logged in; kick closes a session.", cmd_sessions },
	{ "paths", "[set VOLUME GROUP ACCESS [preferred|not-preferred]]",
	  "What may be done through each portal group; set changes it, and waits for commands that are under way.", cmd_paths },
	{ "reservations", "[clear VOLUME]", "Who holds and who registered; clear removes all of a volume's.",
	  cmd_reservations },
	{ "discover", "HOST[:PORT]", "The targets of a server and the addresses it tells.", cmd_discover },
	{ "ls", "HOST[:PORT]|URL", "The LUNs of a server or of one target.", cmd_ls },
	{ "inquiry", "URL", "What a LUN says of itself.", cmd_inquiry },
	{ "cp", "[--from BYTES] SRC DST", "Copy between LUNs and files; each a URL, a path or -.", cmd_cp },
	{ "attach", "[--no-wait] URL", "Make a LUN a disk of this machine, by open-iscsi.", cmd_attach },
	{ "detach", "URL", "Log that target out again.", cmd_detach },
	{ "bench", "URL [OPTION]...", "Measure a target; see lunette bench --help.", cmd_bench },
	{ "check", "URL [OPTION]...", "Check a target against RFC 7143 and 7144; see lunette check --help.", cmd_check },
	{ "version", "", "Print the version.", cmd_version },
	{ "help", "[COMMAND]", "Print this help.", cmd_help },
	{ 0 },
};

static const struct { const char *name, *arg, *help; } options[] = {
	{ "--json", "", "Print answers as JSON." },
	{ "--socket", "PATH", "Control socket of the daemon; also by LUNETTE_SOCKET in the environment. Short: -S." },
	{ "--from", "BYTES", "cp: go on from there." },
	{ "--no-wait", "", "attach: do not wait for the disk." },
	{ "--help", "", "Print this help." },
	{ 0 },
};

static const struct command *find(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

static int cmd_bench(struct cli *c, int argc, char **argv)
{
	return bench_main(argc, argv);
}

static int cmd_check(struct cli *c, int argc, char **argv)
{
	return check_main(argc, argv);
}

static int cmd_version(struct cli *c, int argc, char **argv)
{
	if (c->json)
		printf("{\n  \"version\": \"%s\"\n}\n", LUNETTE_VERSION);
	else
		printf("lunette %s\n", LUNETTE_VERSION);
	return CLI_OK;
}

static void print_row(const char *name, const char *arg, const char *help)
{
	char left[80];

	snprintf(left, sizeof(left), "%s %s", name, arg);
	if (strlen(left) > 26)
		printf("  %s\n%29s%s\n", left, "", help);
	else
		printf("  %-26s %s\n", left, help);
}

static int cmd_help(struct cli *c, int argc, char **argv)
{
	const struct command *one = argc > 1 ? find(argv[1]) : NULL;

	if (argc > 1 && !one) {
		fprintf(stderr, "lunette: there is no command '%.64s'; see lunette help\n", argv[1]);
		return CLI_USAGE;
	}
	if (one) {
		printf("Usage: lunette [OPTION]... %s %s\n%s\n", one->name, one->args, one->help);
		return CLI_OK;
	}
	printf("Usage: lunette [OPTION]... COMMAND\n\nCommands:\n");
	for (const struct command *k = commands; k->name; k++)
		print_row(k->name, k->args, k->help);
	printf("\nOptions:\n");
	for (unsigned i = 0; options[i].name; i++)
		print_row(options[i].name, options[i].arg, options[i].help);
	printf("\nExit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict, 5 denied, 6 busy,\n"
	       "7 daemon unreachable. See lunette(1).\n");
	return CLI_OK;
}

static int usage(const char *what, const char *arg)
{
	fprintf(stderr, "lunette: %s '%.64s'; see lunette help\n", what, arg);
	return CLI_USAGE;
}

/* Takes the common options out of argv, wherever they stand. Returns how many words are left, or -1. */
static int take_options(struct cli *c, int argc, char **argv, bool *help)
{
	int n = 0;

	for (int i = 0; i < argc; i++) {
		const char *a = argv[i];
		if (strcmp(a, "--json") == 0) {
			c->json = true;
		} else if (strcmp(a, "--no-wait") == 0) {
			c->no_wait = true;
		} else if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) {
			*help = true;
		} else if (strncmp(a, "--socket=", 9) == 0) {
			c->socket = a + 9;
		} else if (strcmp(a, "--socket") == 0 || strcmp(a, "-S") == 0) {
			if (i + 1 == argc)
				return usage("a path is missing after", a), -1;
			c->socket = argv[++i];
		} else if (strcmp(a, "--from") == 0) {
			if (i + 1 == argc)
				return usage("a number of bytes is missing after", a), -1;
			c->from = argv[++i];
		} else if (a[0] == '-' && a[1]) {
			return usage("there is no option", a), -1;
		} else {
			argv[n++] = argv[i];
		}
	}
	return n;
}

int main(int argc, char **argv)
{
	struct cli c = { .socket = getenv("LUNETTE_SOCKET") };
	bool help = false;

	if (argc > 2 && strcmp(argv[1], "--json") == 0 && (!strcmp(argv[2], "bench") || !strcmp(argv[2], "check"))) {
		argv[1] = argv[2];
		argv[2] = "--json";
	}
	if (argc > 1 && strcmp(argv[1], "bench") == 0) /* has options of its own */
		return cmd_bench(&c, argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "check") == 0)
		return cmd_check(&c, argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "--version") == 0)
		return cmd_version(&c, 1, argv);
	int n = take_options(&c, argc - 1, argv + 1, &help);
	if (n < 0)
		return CLI_USAGE;
	if (n == 0 && !help) {
		cmd_help(&c, 1, argv);
		return CLI_USAGE;
	}
	const struct command *cmd = n ? find(argv[1]) : NULL;
	if (n && !cmd)
		return usage("there is no command", argv[1]);
	if (help)
		return cmd_help(&c, n ? 2 : 1, argv);
	int status = cmd->run(&c, n, argv + 1);
	work_fini();
	return status;
}
