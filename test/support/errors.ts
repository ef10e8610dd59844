import assert from 'node:assert/strict';
import { DmaError } from 'dmapool';

/** Runs `action` and returns its DmaError, which must have this code. */
export function throwsCode(code: DmaError['code'], action: () => unknown): DmaError {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof DmaError, `expected a DmaError, got ${String(error)}`);
    assert.equal(error.code, code, error.message);
    assert.equal(error.name, error.constructor.name);
    return error;
  }
  return assert.fail(`expected ${code}, nothing was thrown`);
}

/** Awaits `promise`, which must be rejected with a DmaError of this code. */
export function rejectsCode(code: DmaError['code'], promise: Promise<unknown>): Promise<DmaError> {
  return rejectsAs(DmaError, code, promise);
}

/** Awaits `promise`, which must be rejected with an error of this class and code. */
export async function rejectsAs<E extends Error & { readonly code: string }>(
  type: new (...args: never[]) => E,
  code: E['code'],
  promise: Promise<unknown>,
): Promise<E> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof type, `expected ${type.name} ${code}, got ${String(error)}`);
    assert.equal(error.code, code, error.message);
    assert.equal(error.name, error.constructor.name);
    return error;
  }
  return assert.fail(`expected ${code}, but the promise was fulfilled`);
}
