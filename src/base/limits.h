/* SPDX-License-Identifier: BSD-3-Clause
 * Every bound of a queue or a length that a peer, a file or a user can influence, and why it is what
 * it is. */
#ifndef LUNETTE_BASE_LIMITS_H
#define LUNETTE_BASE_LIMITS_H

enum {
	LIM_LOOPS = 256,                  /* cores that one process uses */
	LIM_ISCSI_NAME = 223,             /* RFC 7143 4.2.7.1: bytes, without the terminating zero */
	LIM_LOGIN_TEXT = 65536,           /* text of one login or text exchange over all C-bit PDUs */
	LIM_LOGIN_PDUS = 64,              /* login requests of one connection before it is refused */
	LIM_LOGIN_NS_PER_S = 15,          /* seconds from accept to full feature phase */
	LIM_AHS = 1020,                   /* RFC 7143 11.2.1.5: 255 words; more cannot be said */
	LIM_CDB = 260,                    /* SPC-4: longest variable-length CDB */
	LIM_RECV_SEGMENT = 1 << 20,       /* MaxRecvDataSegmentLength that we declare, bytes */
	LIM_TRANSFER = 16 << 20,          /* one SCSI command's data, bytes; VPD B0 says the same */
	LIM_COPY_MEMORY = 64 << 20,       /* bytes that copies of one loop hold: 512 KiB for each of the 128 that it runs, ... */
	LIM_COPY_SHARE = 8,               /* ... and at most this share of its memory for data in flight, which is less for it */
	LIM_CMD_WINDOW = 256,             /* commands one session may have in flight by MaxCmdSN */
	LIM_CONNECTIONS = 32,             /* of one session: more than a client has ways to us */
	LIM_R2T = 32,                     /* outstanding R2Ts of one task */
	LIM_LUNS = 16384,                 /* flat addressing, SAM-5 4.7.7.3: 14 bits */
	LIM_TARGETS = 4096,
	LIM_SEND_TARGETS = 8 << 20,       /* our answer to SendTargets: the longest names of all targets with a few portals */
	LIM_PORTALS = 64,
	LIM_SENSE = 252,                  /* SPC-4 4.5: longest sense data */
	LIM_UA = 14,                      /* unit attentions that wait for one I_T_L nexus: all that can happen at once */
	LIM_CONF_BYTES = 64 << 20,        /* a configuration file */
	LIM_CONF_DEPTH = 32,
};

#endif
