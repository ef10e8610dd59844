/**
 * Each call of the coherent allocator fails in turn: the driver reports the error, continues where it can, and loses
 * nothing.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmaOutOfMemoryError, DmaReleaseError } from 'dmapool';
import { E1000, type Packet } from 'dmapool/drivers/e1000';
import type { QemuMachine } from 'dmapool/qemu';
import { withoutQemu } from '../../qemu/qemu.ts';
import { FaultySource } from '../../support/faulty-memory.ts';
import { closeAll, frame, machineWithCards, openCard, packetOf, receiveCopies } from './fixture.ts';
import { setImmediate as turn } from 'node:timers/promises';

/**
 * Number of cards under test, each with a peer; QEMU's second of silence after an open elapses for all of them at once.
 */
const PAIRS = 8;
/** Packets in each direction, in groups that fit in the smallest ring. */
const GROUPS = 3;
const GROUP = 4;
/** Number of successive failures after which the user gives up. */
const PATIENCE = 5;

interface Outcome {
  /** The error of start-up, if any. */
  readonly refused: unknown;
  /** Packets that arrived at the peer, and at the card. */
  readonly there: number;
  readonly here: number;
  /** Failed allocations, and packets that had to wait for a buffer. */
  readonly failures: number;
  /** The error of close, if any. */
  readonly closing: unknown;
}

/** Runs every operation of a card. Packets are kept allocated, so that the pool grows meanwhile. */
async function scenario(machine: QemuMachine, which: number, peer: E1000, source: FaultySource): Promise<Outcome> {
  const pci = await machine.open(`nic${String(which)}`, { memory: source });
  let nic: E1000;
  try {
    nic = await E1000.open(pci, { receiveDescriptors: 8, transmitDescriptors: 8, buffers: 24 });
  } catch (error) {
    assert.equal(source.live.size, 0, 'memory taken before the failure was freed');
    assert.equal(await pci.isBusMaster(), false);
    await pci.close();
    return { refused: error, there: 0, here: 0, failures: 0, closing: null };
  }
  const held: Packet[] = [];
  const out = await sendGroups(nic, peer);
  const back = await receiveGroups(nic, peer, held);
  const { starved } = await nic.statistics();
  assert.equal(nic.packets.active, 8 + held.length, 'all other buffers are free');
  nic.packets.freeBatch(held);
  let closing: unknown = null;
  await nic.close().catch((error: unknown) => {
    closing = error;
  });
  assert.equal(nic.packets.active, 0);
  assert.equal(source.live.size, 0);
  await pci.close();
  return { refused: null, there: out.there, here: back, failures: out.failures + starved, closing };
}

/** Sends groups of packets from the card to its peer. */
async function sendGroups(nic: E1000, peer: E1000): Promise<{ there: number; failures: number }> {
  let there = 0;
  let failures = 0;
  for (let group = 0; group < GROUPS; group++) {
    const packets: Packet[] = [];
    for (let wrong = 0; packets.length < GROUP && wrong < PATIENCE;) {
      try {
        packets.push(packetOf(nic, frame(100, there + packets.length)));
        wrong = 0;
      } catch (error) {
        assert.ok(error instanceof DmaOutOfMemoryError || String(error).includes('the source broke'), String(error));
        failures++;
        wrong++;
      }
    }
    assert.equal(nic.transmit(packets), packets.length);
    const frames = packets.map((_, i) => frame(100, there + i));
    assert.deepEqual(await receiveCopies(peer, packets.length, 15_000), frames);
    there += packets.length;
    await nic.drain();
  }
  return { there, failures };
}

/** Sends groups of packets from the peer to the card, which keeps most of them. */
async function receiveGroups(nic: E1000, peer: E1000, held: Packet[]): Promise<number> {
  const batch: Packet[] = [];
  let here = 0;
  for (let group = 0; group < GROUPS; group++) {
    const frames = Array.from({ length: GROUP }, (_, i) => frame(200, here + i));
    peer.transmit(frames.map((bytes) => packetOf(peer, bytes)));
    for (let wrong = 0, came = 0; came < GROUP;) {
      assert.equal(await nic.waitForPackets({ timeout: 15_000 }), true);
      const got = nic.receive(batch, GROUP - came);
      for (let i = 0; i < got; i++) {
        assert.deepEqual(batch[i]!.bytes.slice(0, batch[i]!.length), frames[came++]);
        held.push(batch[i]!);
      }
      wrong = got === 0 ? wrong + 1 : 0;
      here += got;
      if (wrong === PATIENCE) return here;
      await turn();
    }
    nic.packets.free(held.shift()!);
  }
  return here;
}

test(
  'every failed call of the memory source is reported, and nothing is lost',
  {
    skip: withoutQemu,
    timeout: 120_000,
  },
  async (t) => {
    const machine = await machineWithCards(t, 2 * PAIRS);
    const pairs = Array.from({ length: PAIRS }, (_, i) => i);
    const peers = await Promise.all(pairs.map((i) => openCard(machine, 2 * i + 1, { receiveDescriptors: 64 })));
    const run = (pair: number, prepare: (source: FaultySource) => void): Promise<Outcome> => {
      const source = new FaultySource(machine.memory);
      prepare(source);
      return scenario(machine, 2 * pair, peers[pair]!.nic, source);
    };

    let source!: FaultySource;
    let startup = 0;
    const whole = await run(0, (made) => {
      source = made;
    });
    const all = GROUPS * GROUP;
    assert.deepEqual(whole, { refused: null, there: all, here: all, failures: 0, closing: null });
    const { calls, frees } = source;

    const jobs: ((pair: number) => Promise<void>)[] = [];
    for (let failing = 0; failing < calls; failing++) {
      for (const fate of ['none', 'throw'] as const) {
        jobs.push(async (pair) => {
          const outcome = await run(pair, (each) => {
            each.onAlloc = (call) => (call === failing ? fate : 'ok');
          });
          const { refused, ...rest } = outcome;
          if (refused !== null) {
            startup = Math.max(startup, failing + 1);
            if (fate === 'throw') assert.ok(refused instanceof Error && refused.message === 'the source broke');
            else assert.ok(refused instanceof DmaOutOfMemoryError && refused.code === 'ERR_DMAPOOL_NO_MEMORY');
          } else {
            assert.deepEqual({ ...rest, failures: 1 }, { there: all, here: all, failures: 1, closing: null });
            assert.ok(rest.failures > 0, `failure ${String(failing)} was reported`);
          }
        });
      }
      // From this call on the source has no memory.
      jobs.push(async (pair) => {
        const outcome = await run(pair, (each) => {
          each.onAlloc = (call) => (call < failing ? 'ok' : 'none');
        });
        assert.ok(outcome.refused instanceof DmaOutOfMemoryError || outcome.failures > 0);
      });
    }
    for (let failing = 0; failing < frees; failing++) {
      jobs.push(async (pair) => {
        const outcome = await run(pair, (each) => {
          each.onFree = (call) => (call === failing ? 'throw' : 'ok');
        });
        const { closing, ...rest } = outcome;
        assert.deepEqual(rest, { refused: null, there: all, here: all, failures: 0 });
        assert.ok(closing instanceof DmaReleaseError, String(closing));
      });
    }
    t.diagnostic(`${String(jobs.length)} runs: ${String(calls)} allocations and ${String(frees)} frees fail`);
    const todo = jobs.values();
    await Promise.all(
      pairs.map(async (pair) => {
        for (const job of todo) await job(pair);
      }),
    );
    // Both rings, and the eight buffers of the receive ring on four pages.
    assert.equal(startup, 6);
    assert.ok(calls > startup + 3, 'the pool grew during operation');
    await closeAll(machine, ...peers);
  },
);
