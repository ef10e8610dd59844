/** Checks the arguments of `replayTrace`: a trace may come from another thread or from a file. */
import { checkInteger, checkObject, isInstance, reading } from '../arguments.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import { type DecodedTrace, OPERATION } from './decode.ts';
import type { PoolsFile } from './expectations.ts';

const TRACE = 'a trace from decodeTrace()';
const EXPECTED = 'the files of readPools()';

/** @throws `DmaArgumentError` if a number in the trace refers to nothing in it. */
export function checkTrace(trace: DecodedTrace): void {
  checkObject('trace', trace, TRACE);
  reading('trace', trace, TRACE, () => {
    const { name, header, pools, devices, snapshots, operations, counts, slots, refused } = trace;
    const { poolOf, slotOf, pageOf, offsetOf, lineOf } = trace;
    must(typeof name === 'string', 'name', name);
    must(isInstance(header?.fields, Map), 'header', header);
    must(isArray(pools), 'pools', pools);
    must(isArray(devices) && devices.every((device) => typeof device === 'string'), 'devices', devices);
    must(isArray(snapshots), 'snapshots', snapshots);
    must(isInstance(operations, Uint8Array), 'operations', operations);
    checkInteger('trace.slots', slots, 0, 2 ** 32);
    checkInteger('trace.refused', refused, 0, Number.MAX_SAFE_INTEGER);
    checkObject('trace.counts', counts, TRACE);
    for (const kind of ['creates', 'allocs', 'frees', 'destroys'] as const) {
      checkInteger(`trace.counts.${kind}`, counts[kind], 0, operations.length);
    }
    for (const [what, array] of Object.entries({ poolOf, slotOf, pageOf, offsetOf, lineOf })) {
      must(isInstance(array, Uint32Array) && array.length === operations.length, what, array);
    }
    for (const pool of pools) {
      must(typeof pool?.name === 'string' && devices.includes(pool.device), 'pools', pool);
    }
    for (const snapshot of snapshots) {
      must(typeof snapshot?.label === 'string', 'snapshots', snapshot);
      checkInteger('trace.snapshots.begin', snapshot.begin, 0, operations.length);
      checkInteger('trace.snapshots.end', snapshot.end, snapshot.begin, operations.length);
    }
    for (let i = 0; i < operations.length; i++) {
      const hasBlock = operations[i] !== OPERATION.create && operations[i] !== OPERATION.destroy;
      must(operations[i]! <= OPERATION.destroy, 'operations', operations[i]);
      must(poolOf[i]! < pools.length, 'poolOf', poolOf[i]);
      must(!hasBlock || slotOf[i]! < slots, 'slotOf', slotOf[i]);
    }
  });
}

function must(right: boolean, what: string, value: unknown): void {
  if (!right) throw new DmaArgumentError(`trace.${what}`, value, TRACE);
}

/** @throws `DmaArgumentError` if they are no `pools` files. */
export function checkExpected(expected: readonly PoolsFile[]): void {
  if (!isArray(expected)) throw new DmaArgumentError('expected', expected, EXPECTED);
  reading('expected', expected, EXPECTED, () => {
    for (const file of expected as readonly (PoolsFile | null | undefined)[]) {
      const right =
        typeof file?.label === 'string' &&
        typeof file.device === 'string' &&
        typeof file.text === 'string' &&
        isArray(file.rows) &&
        file.rows.every((row) => typeof row?.name === 'string');
      if (!right) throw new DmaArgumentError('expected', file, EXPECTED);
    }
  });
}
