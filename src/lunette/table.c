/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "lunette/cli.h"

struct table {
	unsigned columns, n, room;
	bool *right;
	char **cell; /* heads first */
};

static void add(struct table *t, char *text)
{
	if (t->n == t->room) {
		t->room = t->room ? t->room * 2 : 64;
		t->cell = realloc(t->cell, t->room * sizeof(*t->cell));
	}
	CHECK(t->cell && text);
	t->cell[t->n++] = text;
}

struct table *table_new(const char *const *heads, unsigned columns)
{
	struct table *t = calloc(1, sizeof(*t));

	CHECK(t);
	t->columns = columns;
	t->right = calloc(columns, sizeof(*t->right));
	CHECK(t->right);
	for (unsigned i = 0; i < columns; i++) {
		t->right[i] = heads[i][0] == '>';
		add(t, strdup(heads[i] + t->right[i]));
	}
	return t;
}

void table_cell(struct table *t, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	add(t, text);
}

static int width(const struct table *t, unsigned column)
{
	size_t w = 0;

	for (unsigned i = column; i < t->n; i += t->columns)
		w = MAX(w, strlen(t->cell[i]));
	return (int)w;
}

void table_print(struct table *t)
{
	int *wide = calloc(t->columns, sizeof(*wide));

	CHECK(wide);
	for (unsigned c = 0; c < t->columns; c++)
		wide[c] = width(t, c);
	for (unsigned i = 0; i < t->n; i++) {
		unsigned c = i % t->columns;
		bool last = c + 1 == t->columns;
		if (t->right[c])
			printf("%*s", wide[c], t->cell[i]);
		else
			printf("%-*s", last ? 0 : wide[c], t->cell[i]);
		printf("%s", last ? "\n" : "  ");
	}
	free(wide);
	for (unsigned i = 0; i < t->n; i++)
		free(t->cell[i]);
	free(t->cell);
	free(t->right);
	free(t);
}

const char *show_bytes(json_int_t n, char buf[16])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned u = 0;
	double v = (double)n;

	for (; v >= 1024 && u + 1 < ARRAY_LEN(units); u++)
		v /= 1024;
	bool plain = u == 0 || v == (double)(long)v;
	snprintf(buf, 16, plain ? "%.0f%s" : "%.1f%s", v, units[u]);
	return buf;
}

const char *show_age(json_int_t s, char buf[24])
{
	if (s < 60)
		snprintf(buf, 24, "%llds", (long long)s);
	else if (s < 3600)
		snprintf(buf, 24, "%lldm%02llds", (long long)s / 60, (long long)s % 60);
	else if (s < 86400)
		snprintf(buf, 24, "%lldh%02lldm", (long long)s / 3600, (long long)s / 60 % 60);
	else
		snprintf(buf, 24, "%lldd%02lldh", (long long)s / 86400, (long long)s / 3600 % 24);
	return buf;
}
