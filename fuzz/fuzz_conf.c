/* SPDX-License-Identifier: BSD-3-Clause
 * Configuration files, YAML and JSON. Properties: no crash and no leak whatever the bytes; an error always has a text;
 * a tree that parses, written out and read again, is equal, valid or not alike. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "conf/text.h"
#include "conf/tree.h"
#include "fuzz.h"

static void again(struct conf *c)
{
	json_t *out = conf_to_json(&conf_root_type, c, true), *back = NULL;
	char *text = json_dumps(out, 0);
	struct err e = { 0 };
	struct conf d;

	CHECK(text);
	CHECK(conf_text(text, strlen(text), &back, &e) == 0);
	CHECK(conf_parse(&conf_root_type, &d, back, &e) == 0);
	CHECK(conf_equal(&conf_root_type, c, &d));
	int valid = conf_validate(c, &e), valid_again = conf_validate(&d, &e);
	CHECK(valid == valid_again);
	conf_free(&conf_root_type, &d);
	json_decref(back);
	json_decref(out);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = { 0 };
	json_t *doc = NULL;
	struct conf c;

	if (conf_text((const char *)data, size, &doc, &e) < 0) {
		CHECK(e.text[0]);
		return 0;
	}
	int r = conf_parse(&conf_root_type, &c, doc, &e);
	json_decref(doc);
	if (r < 0) {
		CHECK(e.text[0]);
		return 0;
	}
	again(&c);
	conf_free(&conf_root_type, &c);
	return 0;
}
