/** Workers of one shared pool, on the real code: hot path, core, depot, lock, tickets. */
import assert from 'node:assert/strict';
import { DmaBlockError, DmaOutOfMemoryError } from 'dmapool';
import { EMPTY } from '../../../src/pool/free-list.ts';
import { HotPath, openList, setObjectMaker, setSlowPath } from '../../../src/pool/hot-path.ts';
import type { SlowPath } from '../../../src/pool/backend.ts';
import { type Control, createControl, H_CARVED, H_DEPOT, H_DEPOT_COUNT, holderOf } from '../../../src/shared/layout.ts';
import { SharedCore } from '../../../src/shared/core.ts';
import { Workers } from '../../../src/shared/workers.ts';
import type { Operation, Scenario } from '../../explore/scenario.ts';

const PER_PAGE = 2;
const PAGES = 2;
const BLOCKS: number = PER_PAGE * PAGES;
const MAGAZINE = 2;

/** The slow path without the promises and errors around it. */
class BareSlowPath implements SlowPath {
  readonly #core: SharedCore;

  constructor(core: SharedCore) {
    this.#core = core;
  }

  refill(): number {
    return this.#core.refill(true);
  }

  prepare(count: number): number {
    return this.#core.prepare(count, true);
  }

  drain(index: number): void {
    this.#core.freeSlow(index);
  }

  badFree(index: number): DmaBlockError {
    return new DmaBlockError('ERR_DMAPOOL_NOT_ALLOCATED', `block ${String(index)} can't be freed`);
  }

  refused(): DmaOutOfMemoryError {
    return new DmaOutOfMemoryError('ERR_DMAPOOL_LIMIT', 'no block');
  }

  dmaOf(index: number): number {
    return index;
  }

  bytesOf(): Uint8Array<ArrayBuffer> {
    return new Uint8Array();
  }

  fill(): void {
    // These blocks have no memory.
  }

  ownerOf(): string {
    return '';
  }
}

/** The hot path alone. */
class BarePool extends HotPath {
  constructor() {
    super(new Int32Array(0));
    setObjectMaker(this, { make: (index) => ({ index }), notOurs: () => new Error('not ours') });
  }

  start(slow: SlowPath): void {
    setSlowPath(this, slow);
  }
}

interface Side {
  readonly pool: BarePool;
  readonly core: SharedCore;
  /** First block of its magazine. */
  readonly top: () => number;
  readonly number: number;
}

interface State {
  readonly control: Control;
  readonly sides: readonly Side[];
  /** The worker that holds each block, -1 for none. The words must agree with it. */
  readonly holder: number[];
  /** Blocks in transit: index and ticket, by giver. */
  readonly mail: { index: number; ticket: number; giver: number }[];
  /** Tickets by which a block was accepted while other workers tried too. */
  readonly accepted: Set<number>;
  /** Tickets of the waiters in ascending order; `busy` while a call about the ticket is in progress. */
  readonly waiting: { readonly ticket: number; readonly worker: number; busy: boolean }[];
  readonly dead: Set<number>;
  /** Blocks that were reported as held by a dead worker. */
  readonly reported: Set<number>;
}

function setUp(workers: number, inDepot: boolean): State {
  const control = createControl(BLOCKS, PER_PAGE, PAGES);
  const table = new Workers(control.header);
  const sides = Array.from({ length: workers + 1 }, (_, worker): Side => {
    const number = table.claim(worker);
    const pool = new BarePool();
    const list = openList(pool);
    list.replaceWords(control.words);
    const core = new SharedCore({
      control,
      list,
      worker: number,
      magazine: MAGAZINE,
      mostMagazine: MAGAZINE,
      mayPark: true,
      hooks: null,
    });
    pool.start(new BareSlowPath(core));
    return { pool, core, top: () => list.top, number };
  });
  if (inDepot) {
    const { pool, core } = sides[workers]!;
    for (let i = 0; i < BLOCKS; i++) pool.tryAllocIndex();
    for (let index = 0; index < BLOCKS; index++) pool.freeIndex(index);
    core.flush(BLOCKS);
  }
  return {
    control,
    sides,
    holder: new Array<number>(BLOCKS).fill(-1),
    mail: [],
    accepted: new Set(),
    waiting: [],
    dead: new Set(),
    reported: new Set(),
  };
}

const take: Operation<State> = ({ sides, holder }, worker) => {
  const index = sides[worker]!.pool.tryAllocIndex();
  if (index < 0) return;
  assert.equal(holder[index], -1, `two workers hold block ${String(index)}`);
  holder[index] = worker;
};

const give: Operation<State> = ({ sides, holder }, worker) => {
  const index = holder.indexOf(worker);
  if (index < 0) return;
  holder[index] = -1;
  sides[worker]!.pool.freeIndex(index);
};

const send: Operation<State> = ({ sides, holder, mail }, worker) => {
  const index = holder.indexOf(worker);
  if (index < 0) return;
  holder[index] = -2 - worker;
  const ticket = sides[worker]!.core.transfers.transferOut(index);
  assert.ok(ticket >= 0, 'the owner may transfer');
  mail.push({ index, ticket, giver: worker });
};

const receive: Operation<State> = ({ sides, holder, mail, dead }, worker) => {
  const letter = mail.shift();
  if (letter === undefined) return;
  const { index, ticket, giver } = letter;
  const accepted = sides[worker]!.core.transfers.transferIn(ticket);
  if (accepted >= 0) holder[index] = worker;
  else assert.ok(dead.has(giver), 'only a block of a dead giver is refused');
};

/** Accepts the last letters but leaves them in the mail, so that other workers try the same ones. */
function contend(state: State, worker: number, count: number): void {
  const letters = state.mail.slice(-count);
  if (letters.length < count) return;
  const { core } = state.sides[worker]!;
  const tickets = Float64Array.from(letters, ({ ticket }) => ticket);
  const arrived =
    count === 1
      ? core.transfers.transferIn(tickets[0]!) >= 0
      : core.acceptAll(tickets, new Int32Array(count), count) < 0;
  for (const { index, ticket } of letters) {
    if (!arrived) {
      const mine = holderOf(state.control.words[index]!) === state.sides[worker]!.number;
      assert.ok(!mine || state.holder[index] === worker, `block ${String(index)} arrived, though not all of them did`);
      continue;
    }
    assert.ok(!state.accepted.has(ticket), `block ${String(index)} was accepted twice`);
    state.accepted.add(ticket);
    state.holder[index] = worker;
  }
}

const contendForOne: Operation<State> = (state, worker) => {
  contend(state, worker, 1);
};

const contendForTwo: Operation<State> = (state, worker) => {
  contend(state, worker, 2);
};

const recall: Operation<State> = (state, worker) => {
  const { core } = state.sides[worker]!;
  for (const index of core.recall()) {
    const { ticket } = state.mail.findLast((letter) => letter.index === index && letter.giver === worker)!;
    assert.ok(!state.accepted.has(ticket), `block ${String(index)} was recalled and accepted`);
    state.accepted.add(ticket);
    state.holder[index] = worker;
  }
  // A bulk accept that fails puts its blocks back in transit; those count too.
  assert.equal(core.transfers.inTransit().length, 0, 'a block is in transit after a recall of all');
};

const both: Operation<State> = (state, worker) => {
  const indices = new Int32Array(2);
  try {
    state.sides[worker]!.pool.allocIndexBulk(indices);
  } catch (error) {
    if (error instanceof DmaOutOfMemoryError) return;
    throw error;
  }
  for (let i = 0; i < 2; i++) {
    const index = indices[i]!;
    assert.equal(state.holder[index], -1, `two workers hold block ${String(index)}`);
    state.holder[index] = worker;
  }
};

const giveAll: Operation<State> = ({ sides, holder }, worker) => {
  for (let index = holder.indexOf(worker); index >= 0; index = holder.indexOf(worker)) {
    holder[index] = -1;
    sides[worker]!.pool.freeIndex(index);
  }
};

const draw: Operation<State> = ({ sides, waiting }, worker) => {
  const ticket = sides[worker]!.core.joinQueue();
  assert.ok(ticket >= 0, 'the queue has room');
  waiting.push({ ticket, worker, busy: false });
};

const serve: Operation<State> = (state, worker) => {
  const { sides, waiting } = state;
  const mine = waiting.find((each) => each.worker === worker);
  if (mine === undefined) return;
  mine.busy = true;
  const index = sides[worker]!.core.serve(mine.ticket);
  mine.busy = false;
  if (index >= 0) served(state, mine, index);
};

function served({ waiting, holder, dead }: State, mine: State['waiting'][number], index: number): void {
  const before = waiting.find(({ ticket, worker, busy }) => ticket < mine.ticket && !busy && !dead.has(worker));
  assert.equal(before, undefined, 'another waiter is older');
  waiting.splice(waiting.indexOf(mine), 1);
  assert.equal(holder[index], -1, `two workers hold block ${String(index)}`);
  holder[index] = mine.worker;
}

const giveUp: Operation<State> = ({ sides, waiting }, worker) => {
  const mine = waiting.find((each) => each.worker === worker);
  if (mine === undefined) return;
  mine.busy = true;
  sides[worker]!.core.leaveQueue(mine.ticket);
  waiting.splice(waiting.indexOf(mine), 1);
};

/** Serves the remaining waiters in order while blocks are free; the others leave the queue. */
function serveTheRest(state: State): void {
  const { control, sides, dead, waiting } = state;
  const living = (worker: number): boolean => !dead.has(worker);
  for (const [worker, { core }] of sides.entries()) if (living(worker)) core.returnIdleBlocks();
  for (const mine of [...waiting].sort((a, b) => a.ticket - b.ticket)) {
    if (!living(mine.worker)) continue;
    const { core } = sides[mine.worker]!;
    const inHands = control.words.filter((word) => holderOf(word) !== 0).length;
    const index = core.serve(mine.ticket);
    assert.equal(index >= 0, inHands < BLOCKS, 'a waiter gets a free block');
    if (index >= 0) served(state, mine, index);
    else core.leaveQueue(mine.ticket);
  }
  waiting.length = 0;
}

/** Every carved block is in exactly one place: the depot, one magazine, or held by one worker. */
function checkPlaces({ control, sides, holder, dead }: State): void {
  const { header, words, owners } = control;
  const place = new Map<number, string>();
  const put = (index: number, where: string): void => {
    assert.equal(place.get(index), undefined, `block ${String(index)} is in ${place.get(index) ?? ''} and ${where}`);
    place.set(index, where);
  };
  let count = 0;
  for (let index = header[H_DEPOT]!; index !== EMPTY; index = words[index]!) {
    put(index, 'the depot');
    assert.equal(owners[index], 0, 'the depot’s blocks have no owner');
    count++;
  }
  assert.equal(header[H_DEPOT_COUNT], count);
  for (const [worker, side] of sides.entries()) {
    if (dead.has(worker)) continue;
    for (let index = side.top(); index !== EMPTY; index = words[index]!) {
      put(index, `the magazine of ${String(worker)}`);
      assert.equal(owners[index], side.number);
    }
  }
  for (let index = 0; index < header[H_CARVED]!; index++) {
    const number = holderOf(words[index]!);
    if (number !== 0) put(index, `worker ${String(number - 1)}`);
    assert.ok(place.has(index), `block ${String(index)} is lost`);
    // A worker that died during an allocation or a free may or may not have completed it.
    const worker = holder[index]!;
    if (worker >= 0 && !dead.has(worker)) assert.equal(number, sides[worker]!.number);
  }
}

function check(state: State): void {
  serveTheRest(state);
  checkPlaces(state);
  const { control, sides, dead, reported } = state;
  for (const index of reported) {
    assert.ok(
      dead.has(holderOf(control.words[index]!) - 1),
      `block ${String(index)} was reported, and another worker owns it`,
    );
  }
  const living = sides.findIndex((_, worker) => !dead.has(worker));
  sides[living]!.core.reclaim();
  checkPlaces(state);
  for (let index = 0; index < BLOCKS; index++) {
    assert.ok(!dead.has(holderOf(control.words[index]!) - 1), 'a dead worker still has a block after reclaim');
  }
  // Every block without an owner can be allocated.
  for (const [worker, { core, number }] of sides.entries()) {
    if (!dead.has(worker) && worker !== living) core.flush(BLOCKS);
    assert.ok(number > 0);
  }
  let held = 0;
  for (let index = 0; index < control.header[H_CARVED]!; index++) if (holderOf(control.words[index]!) !== 0) held++;
  for (let left = BLOCKS - held; left > 0; left--) {
    assert.ok(sides[living]!.pool.tryAllocIndex() >= 0, 'a free block cannot be allocated');
  }
}

/** @param inDepot True: all blocks start in the depot. False: all blocks are fresh. */
function scenario(inDepot: boolean, workers: readonly (readonly Operation<State>[])[]): Scenario<State> {
  return {
    setup: () => setUp(workers.length, inDepot),
    workers,
    onKilled: ({ sides, dead, reported }, victim) => {
      dead.add(victim);
      const { core } = sides[workers.length]!;
      core.markDead(victim);
      const reports = core.recoverDead();
      for (const { out } of reports) for (const index of out) reported.add(index);
    },
    check,
    // The holders, in the order of the letters: state that the words do not contain.
    fingerprint: ({ holder, mail, dead, accepted, waiting }) => {
      let hash = 17;
      for (const value of [
        ...holder,
        ...mail.flatMap(({ index, ticket, giver }) => [index, ticket, giver]),
        -9,
        ...accepted,
        -9,
        ...waiting.flatMap(({ ticket, worker, busy }) => [ticket, worker, Number(busy)]),
        -9,
        ...dead,
      ]) {
        hash = (Math.imul(hash, 31) + value + 7) | 0;
      }
      return hash;
    },
  };
}

export const threeWorkers: Scenario<State> = scenario(true, [
  [take, take, give, give],
  [both, take, giveAll, take],
  [take, give, both, giveAll],
]);

export const fresh: Scenario<State> = scenario(false, [
  [take, take, give, give],
  [take, give, take, give],
  [both, give, take, give],
]);

export const transfers: Scenario<State> = scenario(false, [
  [take, send, take, give],
  [receive, give, take, send],
  [receive, give, receive, give],
]);

export const rivals: Scenario<State> = scenario(false, [
  [take, send, take, send],
  [contendForOne, give, contendForTwo, giveAll],
  [contendForTwo, giveAll, contendForOne, give],
]);

export const recalls: Scenario<State> = scenario(false, [
  [both, send, send, recall],
  [contendForTwo, giveAll],
  [contendForOne, give],
]);

export const waiters: Scenario<State> = scenario(true, [
  [both, draw, serve],
  [both, draw, giveAll, serve],
  [draw, giveUp, take],
]);
