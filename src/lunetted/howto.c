/* SPDX-License-Identifier: BSD-3-Clause */
#include "lunetted/howto.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

struct howto {
	FILE *to;
	const struct conf_target *target;
	const struct conf_user *user; /* NULL: no CHAP */
	char host[128], port[8];      /* host without brackets */
	bool have_portal;
};

/* An address of this machine that others may reach, in place of a wildcard. */
static void own_address(char *host, size_t len)
{
	struct ifaddrs *list, *i;

	if (getifaddrs(&list) < 0)
		return;
	for (i = list; i; i = i->ifa_next) {
		if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK))
			continue;
		if (inet_ntop(AF_INET, &((struct sockaddr_in *)i->ifa_addr)->sin_addr, host, (socklen_t)len))
			break;
	}
	freeifaddrs(list);
}

static void note_portal(void *ctx, const struct server_portal *p)
{
	struct howto *h = ctx;
	const char *colon = strrchr(p->name, ':');

	if (h->have_portal || !colon)
		return;
	h->have_portal = true;
	size_t n = (size_t)(colon - p->name), skip = p->name[0] == '[';
	n -= 2 * skip;
	snprintf(h->host, sizeof(h->host), "%.*s", (int)n, p->name + skip);
	snprintf(h->port, sizeof(h->port), "%s", colon + 1);
	if (strcmp(h->host, "0.0.0.0") == 0 || strcmp(h->host, "::") == 0)
		own_address(h->host, sizeof(h->host));
}

static void url_print(struct howto *h, const char *at)
{
	const struct conf_lun *l = h->target->luns.items;

	for (unsigned i = 0; i < h->target->luns.n; i++)
		fprintf(h->to, "  iscsi://%s%s%s%s%s/%s/%s\n", h->user ? h->user->name : "", h->user ? "%" : "",
			h->user ? h->user->secret : "", h->user ? "@" : "", at, h->target->name, l[i].name);
}

static void linux_print(struct howto *h, const char *at)
{
	const char *name = h->target->name;

	fprintf(h->to, "Linux (open-iscsi, as root):\n"
		"  iscsiadm -m discovery -t sendtargets -p %s\n", at);
	if (h->user) {
		fprintf(h->to, "  iscsiadm -m node -T %s -p %s -o update -n node.session.auth.authmethod -v CHAP\n"
			"  iscsiadm -m node -T %s -p %s -o update -n node.session.auth.username -v '%s'\n"
			"  iscsiadm -m node -T %s -p %s -o update -n node.session.auth.password -v '%s'\n",
			name, at, name, at, h->user->name, name, at, h->user->secret);
	}
	fprintf(h->to, "  iscsiadm -m node -T %s -p %s --login\n", name, at);
}

static void windows_print(struct howto *h)
{
	fprintf(h->to, "Windows (PowerShell, as administrator):\n"
		"  Start-Service MSiSCSI\n"
		"  New-IscsiTargetPortal -TargetPortalAddress %s -TargetPortalPortNumber %s\n"
		"  Connect-IscsiTarget -NodeAddress %s", h->host, h->port, h->target->name);
	if (h->user)
		fprintf(h->to, " -AuthenticationType ONEWAYCHAP -ChapUsername '%s' -ChapSecret '%s'", h->user->name,
			h->user->secret);
	fprintf(h->to, "\n");
}

static void esxi_print(struct howto *h, const char *at)
{
	fprintf(h->to, "ESXi (the adapter's name is in the list that the second command shows):\n"
		"  esxcli iscsi software set --enabled=true\n"
		"  esxcli iscsi adapter list\n");
	if (h->user)
		fprintf(h->to, "  esxcli iscsi adapter auth chap set --adapter=vmhba64 --direction=uni --level=required "
			"--authname='%s' --secret='%s'\n", h->user->name, h->user->secret);
	fprintf(h->to, "  esxcli iscsi adapter discovery sendtarget add --adapter=vmhba64 --address=%s\n"
		"  esxcli storage core adapter rescan --adapter=vmhba64\n", at);
}

void howto_print(FILE *to, struct server *s)
{
	const struct conf *c = server_conf(s);
	struct howto h = { .to = to, .target = c->targets.items };
	char at[160];

	server_each_portal(s, note_portal, &h);
	if (!c->targets.n || !h.have_portal)
		return;
	if (h.target->users.n)
		h.user = conf_user(c, ((char **)h.target->users.items)[0]);
	snprintf(at, sizeof(at), strchr(h.host, ':') ? "[%s]:%s" : "%s:%s", h.host, h.port);
	fprintf(to, "Target %s at %s\n", h.target->name, at);
	if (h.user)
		fprintf(to, "CHAP user %s, secret %s\n", h.user->name, h.user->secret);
	url_print(&h, at);
	linux_print(&h, at);
	windows_print(&h);
	esxi_print(&h, at);
}
