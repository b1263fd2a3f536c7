import type { Dashboard } from "@grafana/schema";
/** A type as JSON has it: members of enums are their texts. */
type Plain<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
export type Board = Plain<Dashboard>;
