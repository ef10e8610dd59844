/** JavaScript can call methods that are private or protected in TypeScript. No such call may corrupt a pool. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool } from 'dmapool';
import { attachPool, sharePool } from 'dmapool/shared';
import { isAllocated } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { instanceCalls, revoked, throwing } from './wild.ts';

const device = (): Device => new Device({ name: 'eth0' });
const pool = (): DmaPool => DmaPool.create('rx', device(), { size: 64, maxBlocks: 64 });

test('pool.attach(handle) is no method; DmaPool.attach(handle) is', () => {
  const made = pool();
  const handle = sharePool(made).handle;
  assert.throws(() => {
    (made as unknown as { attach(handle: unknown): void }).attach(handle);
  }, TypeError);
  made.free(made.alloc());
});

test('every method of a pool is documented, or harmless', () => {
  const names = instanceCalls('pool', pool()).map(({ name }) => name.replace(/^pool\./, ''));
  for (const hidden of [
    'attach',
    'makeObject',
    'objectOf',
    'putObject',
    'borrowScratch',
    'returnScratch',
    'idlePages',
  ]) {
    assert.ok(!names.includes(hidden), `${hidden} can be called`);
  }
});

test('a pool made by its constructor is refused', () => {
  const Constructor = DmaPool as unknown as new (...args: unknown[]) => DmaPool;
  const error = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => new Constructor('rx', device(), {}, -1, 8, {}));
  assert.match(error.message, /DmaPool\.create\(\)/);
});

test('isAllocated is false for anything that is no index', () => {
  const made = pool();
  const { index } = made.alloc();
  assert.equal(isAllocated(made, index), true);
  for (const other of [String(index), BigInt(index), [index], { valueOf: () => index }, revoked(), throwing(), null]) {
    assert.equal(isAllocated(made, other as unknown as number), false);
  }
});

test('every invalid value yields an error that describes it', () => {
  const made = pool();
  for (const value of [
    revoked(),
    revoked([]),
    throwing(),
    Symbol('a'),
    Object.create(null),
    2n ** 5000n,
    'x'.repeat(1e6),
    { index: [Symbol('a')] },
  ]) {
    const error = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => made.dmaOf(value as number));
    assert.ok(error.message.length < 400, 'and the message is short');
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      made.free(value as never);
    });
  }
});

test('a handle is read once, and checked in full', () => {
  const handle = sharePool(pool()).handle;
  for (const broken of [
    { debug: undefined },
    { name: Symbol('a') },
    { buffers: {} },
    { pages: [] },
    { device: null },
  ]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => attachPool({ ...handle, ...broken } as typeof handle).pool);
  }
});
